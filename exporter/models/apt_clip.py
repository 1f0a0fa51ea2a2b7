"""APT on CLIP (spec 6): its two components, an image and a text each to a point of one space.

weights carry Hugging Face's names. A graph holds prompts folded (spec 8.1), see `apt.py`; over the checkpoint's own
tensors the same pass computes the unfolded formulas.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import clip_image, clip_text
from .clip_encoder import sites as encoder_sites
from .clip_encoder import stem_of
from .clip_image import ImageConfig
from .clip_text import TextConfig
from .component import Component, Depth, Port, Weight
from .layers import linear

IMAGE_PROJECTION, TEXT_PROJECTION = "visual_projection.weight", "text_projection.weight"


@dataclass(frozen=True)
class Config:
    """Everything the graphs depend on; dim is that of the space which images and texts share."""

    image: ImageConfig
    text: TextConfig
    dim: int
    max_batch: int

    def at(self, most: int) -> "Config":
        """The same with at most so many blocks in each tower."""
        image = replace(self.image, encoder=self.image.encoder.at(most))
        return replace(self, image=image, text=replace(self.text, encoder=self.text.encoder.at(most)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `from_dict` reads it back."""
        return {**vars(self), "image": self.image.to_dict(), "text": self.text.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`."""
        parts = {"image": ImageConfig.from_dict(data["image"]), "text": TextConfig.from_dict(data["text"])}
        return cls(**{**data, **parts})


def components(config: Config) -> tuple[Component, ...]:
    """`image_encoder` and `text_encoder`: points of length 1 in the shared space, float32."""
    side = config.image.image_size
    return (
        Component(
            name="image_encoder",
            inputs=(Port("pixel_values", "float32", ("batch", 3, side, side)),),
            outputs=(Port("image_embeds", "float32", ("batch", config.dim)),),
            weights=image_weights(config),
            forward=_image_forward(config),
            ranges={"batch": (1, config.max_batch)},
            depth=Depth(((stem_of(clip_image.NAME),),), lambda most: components(config.at(most))[0]),
        ),
        Component(
            name="text_encoder",
            inputs=tuple(Port(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask")),
            outputs=(Port("text_embeds", "float32", ("batch", config.dim)),),
            weights=text_weights(config),
            forward=_text_forward(config),
            ranges={"batch": (1, config.max_batch), "sequence": (2, config.text.positions)},
            vocab=config.text.vocab,
            depth=Depth(((stem_of(clip_text.NAME),),), lambda most: components(config.at(most))[1]),
        ),
    )


def sites(config: Config) -> Iterator[tuple[str, int, int]]:
    """Where prompts are, of both towers: the attention, its p and its width."""
    for tower, encoder in ((clip_image.NAME, config.image.encoder), (clip_text.NAME, config.text.encoder)):
        yield from ((site, rows, encoder.width) for site, rows in encoder_sites(tower, encoder))


def image_weights(config: Config) -> dict[str, Weight]:
    """The tensors of `image_encoder`."""
    projection = Weight((config.dim, config.image.encoder.width))
    return clip_image.image_weights(config.image) | {IMAGE_PROJECTION: projection}


def text_weights(config: Config) -> dict[str, Weight]:
    """The tensors of `text_encoder`."""
    projection = Weight((config.dim, config.text.encoder.width))
    return clip_text.text_weights(config.text) | {TEXT_PROJECTION: projection}


def _image_forward(config: Config) -> Callable[..., tuple[Tensor, ...]]:
    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        row = clip_image.pooled(weights, config.image, inputs["pixel_values"])
        return (point(row, weights[IMAGE_PROJECTION]),)

    return forward


def _text_forward(config: Config) -> Callable[..., tuple[Tensor, ...]]:
    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        ids = inputs["input_ids"]
        hidden = clip_text.hidden_states(weights, config.text, ids, inputs["attention_mask"])
        return (point(clip_text.pooled(config.text, ids, hidden), weights[TEXT_PROJECTION]),)

    return forward


def point(row: Tensor, projection: Tensor) -> Tensor:
    """`x / |x|` of x = row projection^T, float32 [B,dim]; row is [B,1,width]."""
    x = linear(row, projection)[:, 0].float()
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True))
