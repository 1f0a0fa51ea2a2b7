"""APT on ViLT (spec 4): the forward pass of its one component `model`, with the head of the task.

weights carry the official names. A graph holds some of them folded (spec 8.1 and 8.7): see `apt.py` for the prompts and
`_Tables` for the static rows; over the official tensors the same pass computes the unfolded formulas.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import apt
from .apt_heads import head, head_weights, images_of, output_port
from .component import Component, Depth, Port, Weight, linear_weights, norm_weights
from .layers import MASKED, attention, layer_norm_of, linear_of, merge_heads, split_heads

BLOCK_EPS = 1e-6
# 1e-12; why it is a tensor, see `layers.layer_norm`.
TEXT_EPS = "text_embeddings.LayerNorm.eps"
PROJECTION = "proj"


@dataclass(frozen=True)
class Config:
    """Everything the graph depends on. height and width are those of the padded input in pixels; grid is the side of
    the trained position grid; head_dim and classes are 0 and 1 for the one linear layer of irtr."""

    task: str
    dim: int
    blocks: int
    heads: int
    ffn_dim: int
    vocab: int
    text_length: int
    patch: int
    grid: int
    token_types: int
    prompt_rows: int
    head_dim: int
    classes: int
    height: int
    width: int
    max_batch: int

    @property
    def rows(self) -> int:
        """Patches from top to bottom of the padded input."""
        return self.height // self.patch

    @property
    def columns(self) -> int:
        """Patches from left to right of the padded input."""
        return self.width // self.patch

    @property
    def images(self) -> int:
        """Images that one text is asked about."""
        return images_of(self.task)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`."""
        return cls(**data)


def components(config: Config) -> tuple[Component, ...]:
    """The one graph of this family."""

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        return (model(weights, config, inputs),)

    images = [
        port
        for suffix in ("", "_2")[: config.images]
        for port in (
            Port(f"pixel_values{suffix}", "float32", ("batch", 3, config.height, config.width)),
            Port(f"pixel_mask{suffix}", "int64", ("batch", config.height, config.width)),
        )
    ]
    return (
        Component(
            name="model",
            inputs=(
                Port("input_ids", "int64", ("batch", "sequence")),
                Port("attention_mask", "int64", ("batch", "sequence")),
                *images,
            ),
            outputs=(output_port(config.task, config.classes),),
            weights=graph_weights(config),
            forward=forward,
            ranges={"batch": (1, config.max_batch), "sequence": (2, config.text_length)},
            constants={
                "positions.by_rows": interpolation(config.grid, config.rows),
                "positions.by_columns": interpolation(config.grid, config.columns),
                TEXT_EPS: np.array([1e-12], np.float32),
            },
            vocab=config.vocab,
            depth=Depth(
                (("transformer.blocks",),),
                lambda most: components(replace(config, blocks=min(most, config.blocks)))[0],
            ),
        ),
    )


def graph_weights(config: Config) -> dict[str, Weight]:
    """The tensors a graph holds, the folded ones in place of those they are made of."""
    d = config.dim
    weights = {
        "text_embeddings.word_embeddings.weight": Weight((config.vocab, d)),
        "text_embeddings.positions": Weight((config.text_length, d)),
        **norm_weights("text_embeddings.LayerNorm", d),
        "text_type": Weight((d,)),
        "text_start": Weight((1, 1, d)),
        "transformer.patch_embed.proj.weight": Weight((d, 3, config.patch, config.patch)),
        "transformer.patch_embed.proj.bias": Weight((d,)),
        "transformer.positions": Weight((config.grid**2, d)),
        "image_types": Weight((config.images, 1, 1, d)),
        "image_starts": Weight((config.images, 1, 1, d)),
    }
    for i in range(config.blocks):
        block = f"transformer.blocks.{i}"
        weights |= norm_weights(f"{block}.norm1", d) | linear_weights(f"{block}.attn.qkv", 3 * d, d)
        weights |= apt.graph_weights(f"{block}.attn", PROJECTION, config.prompt_rows, d)
        weights |= norm_weights(f"{block}.norm2", d) | linear_weights(f"{block}.mlp.fc1", config.ffn_dim, d)
        weights |= linear_weights(f"{block}.mlp.fc2", d, config.ffn_dim)
    weights |= norm_weights("transformer.norm", d) | linear_weights("pooler.dense", d, d)
    return weights | head_weights(config.task, d, config.head_dim, config.classes)


def interpolation(grid: int, places: int) -> np.ndarray:
    """`table[n, i, g]`, float32 [places+1, places, grid]: the share of grid line g in line i of n, as bilinear
    interpolation with align_corners=True has it; zero for i >= n, which lie outside the image (spec 4.1)."""
    table = np.zeros((places + 1, places, grid), np.float64)
    for count in range(1, places + 1):
        at = np.linspace(0, grid - 1, count)
        table[count, :count] = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(grid)))
    return table.astype(np.float32)


class _Tables(NamedTuple):
    """Static rows of the embeddings: text positions [L,d] with BERT's own type row; the classifier's row [1,1,d] with
    the text type row [d]; image positions [grid^2,d]; for each image its type row and its first row [n,1,1,d]."""

    positions: Tensor
    text_type: Tensor
    text_start: Tensor
    grid: Tensor
    image_types: Tensor
    image_starts: Tensor


def _tables(weights: Mapping[str, Tensor], images: int) -> _Tables:
    if "text_start" in weights:
        names = ("text_embeddings.positions", "text_type", "text_start")
        image = ("transformer.positions", "image_types", "image_starts")
        return _Tables(*(weights[name] for name in (*names, *image)))
    types = weights["token_type_embeddings.weight"]
    places = weights["transformer.pos_embed"]
    image_types = types[1 : 1 + images, None, None]
    return _Tables(
        weights["text_embeddings.position_embeddings.weight"]
        + weights["text_embeddings.token_type_embeddings.weight"][0],
        types[0],
        weights["token4classifier"] + types[0],
        places[0, 1:],
        image_types,
        weights["transformer.cls_token"] + places[:, :1] + image_types,
    )


def model(weights: Mapping[str, Tensor], config: Config, inputs: Mapping[str, Tensor]) -> Tensor:
    """logits [B,classes] or, for irtr, score [B,1], float32; inputs are those of the component (spec 4.1 and 4.3)."""
    return classify(weights, config, stream(weights, config, inputs)[-1])


def stream(
    weights: Mapping[str, Tensor],
    config: Config,
    inputs: Mapping[str, Tensor],
    block: Callable[[Mapping[str, Tensor], Config, str, Tensor, Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """What leaves each block [n*B,T+1+N,d]: rows of the text, the image's first row, its patches in raster order.

    The two images of nlvr2 are two rows of one pass: the same text with the first, then with the second image. block
    stands in for the official one.
    """
    block = block or _block
    suffixes = ("", "_2")[: config.images]
    tables = _tables(weights, config.images)
    text, text_bias = embed_text(weights, tables, inputs["input_ids"], inputs["attention_mask"])
    seen = [
        embed_image(weights, config, tables, inputs[f"pixel_values{suffix}"], inputs[f"pixel_mask{suffix}"], index)
        for index, suffix in enumerate(suffixes)
    ]
    x = torch.cat([torch.cat([text, image], 1) for image, _ in seen])
    bias = torch.cat([torch.cat([text_bias, image_bias], 1) for _, image_bias in seen])[:, None, None]
    rows = []
    for i in range(config.blocks):
        x = block(weights, config, f"transformer.blocks.{i}", x, bias)
        rows.append(x)
    return rows


def classify(weights: Mapping[str, Tensor], config: Config, x: Tensor) -> Tensor:
    """logits [B,classes] or score [B,1], float32, of what leaves the last block."""
    first = layer_norm_of(weights, "transformer.norm", x[:, :1], BLOCK_EPS)
    return head(weights, config.task, torch.tanh(linear_of(weights, "pooler.dense", first)))


def embed_text(weights: Mapping[str, Tensor], tables: _Tables, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Text rows [B,T,d] and their additive key mask [B,T], float32. The first row is the classifier's own whatever the
    first id is (spec 4.1)."""
    places = torch.arange(ids.shape[1], device=ids.device)
    x = F.embedding(ids, weights["text_embeddings.word_embeddings.weight"]) + F.embedding(places, tables.positions)
    x = layer_norm_of(weights, "text_embeddings.LayerNorm", x, weights[TEXT_EPS]) + tables.text_type
    # Not len(x), which would fix the batch while tracing.
    x = torch.cat([tables.text_start.expand(x.shape[0], 1, -1), x[:, 1:]], 1)
    return x, torch.where(mask != 0, 0.0, MASKED)


def embed_image(
    weights: Mapping[str, Tensor], config: Config, tables: _Tables, pixels: Tensor, mask: Tensor, index: int
) -> tuple[Tensor, Tensor]:
    """Class row and patches [B,1+N,d] of the image number `index`, and their additive key mask [B,1+N], float32.

    mask [B,H,W] is sampled at each patch's top left pixel; how many patches of the first column and row it holds gives
    the image's own grid, to which the positions are interpolated (spec 4.1). Patches stay in raster order.
    """
    kernel, bias = (weights[f"transformer.patch_embed.proj.{kind}"] for kind in ("weight", "bias"))
    valid = mask[:, :: config.patch, :: config.patch] != 0
    patches = F.conv2d(pixels.to(kernel.dtype), kernel, bias, stride=config.patch).flatten(2).transpose(1, 2)
    places = image_positions(weights, tables.grid, valid)
    start = tables.image_starts[index].expand(patches.shape[0], 1, -1)
    x = torch.cat([start, patches + places + tables.image_types[index]], 1)
    return x, F.pad(torch.where(valid, 0.0, MASKED).flatten(1), (1, 0))


def image_positions(weights: Mapping[str, Tensor], grid: Tensor, valid: Tensor) -> Tensor:
    """Positions [B,N,d] of patches valid [B,rows,columns], interpolated from grid [g^2,d] to each image's own size."""
    shares = valid.float()
    by_rows = torch.index_select(weights["positions.by_rows"], 0, shares[:, :, 0].sum(1).long())
    by_columns = torch.index_select(weights["positions.by_columns"], 0, shares[:, 0].sum(1).long())
    blend = by_rows[:, :, None, :, None] * by_columns[:, None, :, None, :]
    return blend.reshape(-1, valid.shape[1] * valid.shape[2], grid.shape[0]).to(grid.dtype) @ grid


def _block(weights: Mapping[str, Tensor], config: Config, name: str, x: Tensor, bias: Tensor) -> Tensor:
    normed = layer_norm_of(weights, f"{name}.norm1", x, BLOCK_EPS)
    packed = linear_of(weights, f"{name}.attn.qkv", normed).chunk(3, -1)
    query, key, value = (split_heads(part, config.heads) for part in packed)
    mixed = merge_heads(attention(query, key, value, bias))
    return feed_forward(weights, name, x + apt.attend(weights, f"{name}.attn", PROJECTION, normed, mixed))


def feed_forward(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """The second half of the block `name`: x [B,N,d] and what its FFN makes of it."""
    normed = layer_norm_of(weights, f"{name}.norm2", x, BLOCK_EPS)
    return x + linear_of(weights, f"{name}.mlp.fc2", F.gelu(linear_of(weights, f"{name}.mlp.fc1", normed)))
