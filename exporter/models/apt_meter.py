"""APT on METER (spec 5): the forward pass of its one component `model`, with the head of the task.

weights carry the official names, those of the image tower without `vit_model.`. A graph holds some of them folded (spec
8.1): see `apt.py` for the prompts, `_Entry` for where the two streams begin, and RoBERTa's table of positions; over the
official tensors the same pass computes the unfolded formulas.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import apt, roberta
from .apt_heads import head, head_weights, images_of, output_port
from .clip_tower import STEMS, TowerConfig, tower, tower_weights
from .component import Component, Depth, Port, Weight, linear_weights, norm_weights
from .layers import key_bias, layer_norm_of, linear, linear_of
from .roberta import RobertaConfig

CROSS_EPS = 1e-12
PROJECTION = "dense"
TEXT, IMAGE = "cross_modal_text", "cross_modal_image"
TEXT_SHIFT, TEXT_START = f"{TEXT}_transform.shift", f"{TEXT}_transform.start"
IMAGE_SHIFTS = f"{IMAGE}_transform.shifts"


@dataclass(frozen=True)
class Config:
    """Everything the graph depends on. dim, layers, heads and ffn_dim are those of the two streams that look at each
    other; head_dim and classes are 0 and 1 for the one linear layer of irtr."""

    task: str
    tower: TowerConfig
    text: RobertaConfig
    dim: int
    layers: int
    heads: int
    ffn_dim: int
    token_types: int
    prompt_rows: int
    head_dim: int
    classes: int
    max_batch: int

    @property
    def images(self) -> int:
        """Images that one text is asked about."""
        return images_of(self.task)

    def at(self, most: int) -> "Config":
        """The same with at most so many layers of each kind."""
        text = replace(self.text, layers=min(most, self.text.layers))
        return replace(self, tower=self.tower.at(most), text=text, layers=min(most, self.layers))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`."""
        return cls(**{**data, "tower": TowerConfig(**data["tower"]), "text": RobertaConfig(**data["text"])})


def components(config: Config) -> tuple[Component, ...]:
    """The one graph of this family."""

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        return (model(weights, config, inputs),)

    side = config.tower.image_size
    return (
        Component(
            name="model",
            inputs=(
                Port("input_ids", "int64", ("batch", "sequence")),
                Port("attention_mask", "int64", ("batch", "sequence")),
                *(Port(name, "float32", ("batch", 3, side, side)) for name in _pixels(config)),
            ),
            outputs=(output_port(config.task, config.classes),),
            weights=graph_weights(config),
            forward=forward,
            ranges={"batch": (1, config.max_batch), "sequence": (2, config.text.length)},
            constants={f"{norm}.eps": np.array([CROSS_EPS], np.float32) for norm in _cross_norms(config)},
            vocab=config.text.vocab,
            depth=Depth(
                (STEMS, roberta.STEMS, (f"{TEXT}_layers", f"{IMAGE}_layers")),
                lambda most: components(config.at(most))[0],
            ),
        ),
    )


def _pixels(config: Config) -> list[str]:
    return [f"pixel_values{suffix}" for suffix in ("", "_2")[: config.images]]


def cross_layers(config: Config) -> list[str]:
    """The layers of both streams."""
    return [f"{stream}_layers.{i}" for i in range(config.layers) for stream in (TEXT, IMAGE)]


def sites(config: Config) -> Iterator[str]:
    """Where prompts are: behind the self-attention and the cross-attention of every layer of both streams."""
    for layer in cross_layers(config):
        yield from (f"{layer}.attention.output", f"{layer}.crossattention.output")


def _cross_norms(config: Config) -> Iterator[str]:
    for layer in cross_layers(config):
        yield from (f"{layer}{part}.LayerNorm" for part in (".attention.output", ".crossattention.output", ".output"))


def shared_weights(config: Config) -> dict[str, Weight]:
    """The tensors that the graph holds as the checkpoint does, the tower's under their names without `vit_model.`."""
    d = config.dim
    weights = roberta.encoder_weights(config.text) | tower_weights(config.tower)
    for layer in cross_layers(config):
        for part in ("attention", "crossattention"):
            weights |= roberta.attention_weights(f"{layer}.{part}.self", d)
            weights |= norm_weights(f"{layer}.{part}.output.LayerNorm", d)
        weights |= roberta.feed_forward_weights(layer, d, config.ffn_dim)
    weights[f"{TEXT}_transform.weight"] = Weight((d, config.text.dim))
    weights[f"{IMAGE}_transform.weight"] = Weight((d, config.tower.width))
    for stream in (TEXT, IMAGE):
        weights |= linear_weights(f"{stream}_pooler.dense", d, d)
    return weights | head_weights(config.task, 2 * d, config.head_dim, config.classes)


def graph_weights(config: Config) -> dict[str, Weight]:
    """The tensors a graph holds, the folded ones in place of those they are made of."""
    d = config.dim
    weights = shared_weights(config) | {
        roberta.TABLE: Weight((config.text.positions, config.text.dim)),
        TEXT_SHIFT: Weight((d,)),
        TEXT_START: Weight((1, 1, d)),
        IMAGE_SHIFTS: Weight((config.images, d)),
    }
    for site in sites(config):
        weights |= apt.graph_weights(site, PROJECTION, config.prompt_rows, d)
    return weights


class _Entry(NamedTuple):
    """What the streams begin with beside their projections: the text's bias with its type row [d], the classifier's row
    with the same type [1,1,d], and for each image the bias with its own type row [n,d]."""

    text_shift: Tensor
    text_start: Tensor
    image_shifts: Tensor


def _entry(weights: Mapping[str, Tensor], images: int) -> _Entry:
    if TEXT_START in weights:
        return _Entry(weights[TEXT_SHIFT], weights[TEXT_START], weights[IMAGE_SHIFTS])
    types = weights["token_type_embeddings.weight"]
    return _Entry(
        weights[f"{TEXT}_transform.bias"] + types[0],
        weights["token4classifier"] + types[0],
        weights[f"{IMAGE}_transform.bias"] + types[1 : 1 + images],
    )


def model(weights: Mapping[str, Tensor], config: Config, inputs: Mapping[str, Tensor]) -> Tensor:
    """logits [B,classes] or, for irtr, score [B,1], float32; inputs are those of the component (spec 5.1 and 5.4).

    The two images of nlvr2 are two rows of one pass: the same text with the first, then with the second image.
    """
    entry, images = _entry(weights, config.images), config.images
    bias = key_bias(inputs["attention_mask"])
    text = embed_text(weights, config, entry, inputs["input_ids"], bias)
    image = embed_images(weights, config, entry, [inputs[name] for name in _pixels(config)])
    if images > 1:
        text, bias = torch.cat([text] * images), torch.cat([bias] * images)
    for i in range(config.layers):
        # Each looks at what the other was before this layer.
        text, image = (
            cross_layer(weights, config, f"{TEXT}_layers.{i}", text, image, bias, None),
            cross_layer(weights, config, f"{IMAGE}_layers.{i}", image, text, None, bias),
        )
    pooled = [
        torch.tanh(linear_of(weights, f"{stream}_pooler.dense", rows[:, :1]))
        for stream, rows in ((TEXT, text), (IMAGE, image))
    ]
    return head(weights, config.task, torch.cat(pooled, -1))


def embed_text(weights: Mapping[str, Tensor], config: Config, entry: _Entry, ids: Tensor, bias: Tensor) -> Tensor:
    """Text rows [B,T,d]. The first row is the classifier's own whatever the first id is (spec 5.1)."""
    x = linear(roberta.encode(weights, config.text, ids, bias), weights[f"{TEXT}_transform.weight"], entry.text_shift)
    # Not len(x), which would fix the batch while tracing.
    return torch.cat([entry.text_start.expand(x.shape[0], 1, -1), x[:, 1:]], 1)


def embed_images(weights: Mapping[str, Tensor], config: Config, entry: _Entry, pixels: list[Tensor]) -> Tensor:
    """Class token and patches of every image [n*B,1+N,d], those of the first image first."""
    # Stacked, not concatenated: so the tracer knows that the batches are of one size.
    every = torch.stack(pixels).flatten(0, 1) if config.images > 1 else pixels[0]
    seen = tower(weights, config.tower, every.to(weights["visual.conv1.weight"].dtype), class_token=True)
    kernel = weights[f"{IMAGE}_transform.weight"]
    if config.images == 1:
        return linear(seen, kernel, entry.image_shifts[0])
    rows = linear(seen, kernel)
    return (rows.reshape(config.images, -1, *rows.shape[1:]) + entry.image_shifts[:, None, None]).flatten(0, 1)


def cross_layer(
    weights: Mapping[str, Tensor],
    config: Config,
    name: str,
    x: Tensor,
    other: Tensor,
    bias: Tensor | None,
    other_bias: Tensor | None,
) -> Tensor:
    """x [B,N,d] looks at itself, then at the other stream [B,M,d], each time with prompts beside; all norms come last.
    The biases are those of the keys, None where all are seen."""
    x = _attend(weights, config, f"{name}.attention", x, x, bias)
    x = _attend(weights, config, f"{name}.crossattention", x, other, other_bias)
    return roberta.feed_forward(weights, name, x, weights[f"{name}.output.LayerNorm.eps"])


def _attend(
    weights: Mapping[str, Tensor], config: Config, name: str, x: Tensor, source: Tensor, bias: Tensor | None
) -> Tensor:
    mixed = roberta.mixed_heads(weights, f"{name}.self", config.heads, x, source, bias)
    attended = apt.attend(weights, f"{name}.output", PROJECTION, x, mixed)
    norm = f"{name}.output.LayerNorm"
    return layer_norm_of(weights, norm, attended + x, weights[f"{norm}.eps"])
