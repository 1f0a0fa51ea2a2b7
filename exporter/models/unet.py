"""Stable Diffusion's U-Net (diffusers' UNet2DConditionModel), with APT's prompts beside any of its attentions.

Weights carry diffusers' names. A level is one entry of `channels`: its blocks go down from the first to the last, and
up again the other way.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import apt
from .component import Weight, linear_weights, norm_weights
from .layers import attend_heads, layer_norm_of, linear, linear_of
from .resnet import conv_of, conv_weights, group_norm_of, halved, resnet, resnet_weights, upsample

PROJECTION = "to_out.0"
FREQUENCIES = "time_proj.frequencies"
TRANSFORMER_EPS = 1e-6
BLOCK_EPS = 1e-5
_PERIOD = 10000


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the U-Net. down and up tell which blocks, in the order of their names, have attention; heads are those
    of each level; prompts has the rows p of every attention that has any, by the name of its module."""

    latents: int
    channels: list[int]
    down: list[bool]
    up: list[bool]
    layers: int
    transformers: int
    heads: list[int]
    context: int
    linear: bool
    groups: int
    eps: float
    cosine_first: bool
    frequency_shift: float
    prompts: dict[str, int]

    @property
    def multiple(self) -> int:
        """Height and width of the latents must be multiples of this: every level but the last halves them."""
        return 1 << (len(self.channels) - 1)

    @property
    def time(self) -> int:
        """Width of the time embedding."""
        return 4 * self.channels[0]


class Attention(NamedTuple):
    """A `Transformer2DModel`: its name, its width and its number of heads."""

    name: str
    width: int
    heads: int


class Block(NamedTuple):
    """A block of the way down, across or up: the names of its residual blocks with their channels in and out, the
    attention after each of them, or None, and the convolution that halves or doubles the size at its end, or None."""

    resnets: list[tuple[str, int, int]]
    attentions: list[Attention | None]
    resized: str | None


def down_blocks(config: UNetConfig) -> list[Block]:
    """The blocks `down_blocks.{i}`."""
    made, last = [], len(config.channels) - 1
    for i, width in enumerate(config.channels):
        name, first = f"down_blocks.{i}", config.channels[max(0, i - 1)]
        resnets = [(f"{name}.resnets.{j}", width if j else first, width) for j in range(config.layers)]
        attentions = [_attention(config, name, i, j) if config.down[i] else None for j in range(config.layers)]
        made.append(Block(resnets, attentions, f"{name}.downsamplers.0.conv" if i < last else None))
    return made


def middle_block(config: UNetConfig) -> Block:
    """The block `mid_block`."""
    last, width = len(config.channels) - 1, config.channels[-1]
    resnets = [(f"mid_block.resnets.{j}", width, width) for j in range(2)]
    return Block(resnets, [_attention(config, "mid_block", last, 0), None], None)


def up_blocks(config: UNetConfig) -> list[Block]:
    """The blocks `up_blocks.{i}`; each of their residual blocks also takes what one on the way down left."""
    made, last = [], len(config.channels) - 1
    for i in range(last + 1):
        level, name = last - i, f"up_blocks.{i}"
        width, below = config.channels[level], config.channels[min(last, level + 1)]
        above = config.channels[max(0, level - 1)]
        resnets = [
            (f"{name}.resnets.{j}", (width if j else below) + (width if j < config.layers else above), width)
            for j in range(config.layers + 1)
        ]
        attentions = [_attention(config, name, level, j) if config.up[i] else None for j in range(config.layers + 1)]
        made.append(Block(resnets, attentions, f"{name}.upsamplers.0.conv" if i < last else None))
    return made


def _attention(config: UNetConfig, block: str, level: int, number: int) -> Attention:
    return Attention(f"{block}.attentions.{number}", config.channels[level], config.heads[level])


def transformer_blocks(config: UNetConfig, found: Attention) -> list[str]:
    """The names of the transformer blocks of an attention."""
    return [f"{found.name}.transformer_blocks.{k}" for k in range(config.transformers)]


def sites(config: UNetConfig) -> Iterator[tuple[str, int, int]]:
    """Every attention that may have prompts: its name, its width, and the width of what its keys are made of."""
    for block in (*down_blocks(config), middle_block(config), *up_blocks(config)):
        for found in filter(None, block.attentions):
            for name in transformer_blocks(config, found):
                yield f"{name}.attn1", found.width, found.width
                yield f"{name}.attn2", found.width, config.context


def frequencies(config: UNetConfig) -> np.ndarray:
    """`10000^(-i / (half - shift))`, float32 [half]: what a step is multiplied by before sine and cosine."""
    half = config.channels[0] // 2
    return np.exp(-np.log(_PERIOD) * np.arange(half) / (half - config.frequency_shift)).astype(np.float32)


def unet_weights(config: UNetConfig) -> dict[str, Weight]:
    """Every tensor that a graph holds, sites with prompts in their folded form (`apt.graph_weights`)."""
    weights = plain_weights(config)
    for site, width, _ in sites(config):
        if rows := config.prompts.get(site):
            weights |= apt.graph_weights(site, PROJECTION, rows, width)
    return weights


def plain_weights(config: UNetConfig) -> dict[str, Weight]:
    """The tensors of the U-Net without prompts, as diffusers stores them."""
    first = config.channels[0]
    weights = conv_weights("conv_in", first, config.latents)
    weights |= linear_weights("time_embedding.linear_1", config.time, first)
    weights |= linear_weights("time_embedding.linear_2", config.time, config.time)
    for block in (*down_blocks(config), middle_block(config), *up_blocks(config)):
        for name, inputs, outputs in block.resnets:
            weights |= resnet_weights(name, inputs, outputs, config.time)
        for found in filter(None, block.attentions):
            weights |= _transformer_weights(config, found)
        if block.resized:
            weights |= conv_weights(block.resized, block.resnets[-1][2], block.resnets[-1][2])
    weights |= norm_weights("conv_norm_out", first) | conv_weights("conv_out", config.latents, first)
    return weights


def _transformer_weights(config: UNetConfig, found: Attention) -> dict[str, Weight]:
    d, made = found.width, norm_weights(f"{found.name}.norm", found.width)
    for end in ("proj_in", "proj_out"):
        name = f"{found.name}.{end}"
        made |= linear_weights(name, d, d) if config.linear else conv_weights(name, d, d, 1)
    for name in transformer_blocks(config, found):
        for norm in ("norm1", "norm2", "norm3"):
            made |= norm_weights(f"{name}.{norm}", d)
        for site, seen in ((f"{name}.attn1", d), (f"{name}.attn2", config.context)):
            made[f"{site}.to_q.weight"] = Weight((d, d))
            made |= {f"{site}.{part}.weight": Weight((d, seen)) for part in ("to_k", "to_v")}
            made |= linear_weights(f"{site}.{PROJECTION}", d, d)
        made |= linear_weights(f"{name}.ff.net.0.proj", 8 * d, d) | linear_weights(f"{name}.ff.net.2", d, 4 * d)
    return made


def unet(weights: Mapping[str, Tensor], config: UNetConfig, sample: Tensor, step: Tensor, context: Tensor) -> Tensor:
    """The predicted noise (or velocity) [B,4,H,W] float32 of latents `sample` [B,4,H,W] at the time step [1] int64,
    given the text's rows `context` [B,S,c]. H and W must be multiples of `config.multiple`."""
    time = _time(weights, config, step)
    x = conv_of(weights, "conv_in", sample)
    left = [x]
    for block in down_blocks(config):
        for place, found in zip(block.resnets, block.attentions, strict=True):
            x = _layer(weights, config, place[0], found, x, time, context)
            left.append(x)
        if block.resized:
            x = halved(weights, block.resized, x)
            left.append(x)
    middle = middle_block(config)
    for place, found in zip(middle.resnets, middle.attentions, strict=True):
        x = _layer(weights, config, place[0], found, x, time, context)
    for block in up_blocks(config):
        for place, found in zip(block.resnets, block.attentions, strict=True):
            x = _layer(weights, config, place[0], found, torch.cat([x, left.pop()], 1), time, context)
        if block.resized:
            x = upsample(weights, block.resized, x)
    x = F.silu(group_norm_of(weights, "conv_norm_out", x, config.groups, config.eps))
    return conv_of(weights, "conv_out", x).float()


def _time(weights: Mapping[str, Tensor], config: UNetConfig, step: Tensor) -> Tensor:
    """silu of the time embedding [1,1,t]: every residual block begins with it."""
    angles = step[:, None, None].float() * weights[FREQUENCIES]
    waves = [torch.cos(angles), torch.sin(angles)]
    x = torch.cat(waves if config.cosine_first else waves[::-1], -1)
    x = F.silu(linear_of(weights, "time_embedding.linear_1", x))
    return F.silu(linear_of(weights, "time_embedding.linear_2", x))


def _layer(
    weights: Mapping[str, Tensor],
    config: UNetConfig,
    name: str,
    found: Attention | None,
    x: Tensor,
    time: Tensor,
    context: Tensor,
) -> Tensor:
    x = resnet(weights, name, x, config.groups, config.eps, time)
    return x if found is None else _transformer(weights, config, found, x, context)


def _transformer(
    weights: Mapping[str, Tensor], config: UNetConfig, found: Attention, x: Tensor, context: Tensor
) -> Tensor:
    """Attention of the pixels [B,C,H,W] to one another and to the text, beside the residual."""
    hidden = group_norm_of(weights, f"{found.name}.norm", x, config.groups, TRANSFORMER_EPS)
    if config.linear:
        rows = linear_of(weights, f"{found.name}.proj_in", hidden.flatten(2).transpose(1, 2))
    else:
        rows = conv_of(weights, f"{found.name}.proj_in", hidden).flatten(2).transpose(1, 2)
    for name in transformer_blocks(config, found):
        rows = _block(weights, config, name, found.heads, rows, context)
    if config.linear:
        rows = linear_of(weights, f"{found.name}.proj_out", rows)
    hidden = rows.transpose(1, 2).reshape(x.shape)
    return x + (hidden if config.linear else conv_of(weights, f"{found.name}.proj_out", hidden))


def _block(
    weights: Mapping[str, Tensor], config: UNetConfig, name: str, heads: int, x: Tensor, context: Tensor
) -> Tensor:
    """`x += attn1(LN x); x += attn2(LN x, text); x += W_2 (h gelu(g)), [h, g] = W_1 LN x` over rows [B,HW,C]."""
    normed = layer_norm_of(weights, f"{name}.norm1", x, BLOCK_EPS)
    x = x + _attend(weights, config, f"{name}.attn1", heads, normed, normed)
    normed = layer_norm_of(weights, f"{name}.norm2", x, BLOCK_EPS)
    x = x + _attend(weights, config, f"{name}.attn2", heads, normed, context)
    normed = layer_norm_of(weights, f"{name}.norm3", x, BLOCK_EPS)
    hidden, gate = linear_of(weights, f"{name}.ff.net.0.proj", normed).chunk(2, -1)
    return x + linear_of(weights, f"{name}.ff.net.2", hidden * F.gelu(gate))


def _attend(
    weights: Mapping[str, Tensor], config: UNetConfig, site: str, heads: int, hidden: Tensor, seen: Tensor
) -> Tensor:
    query, key, value = (
        linear(rows, weights[f"{site}.{part}.weight"])
        for part, rows in (("to_q", hidden), ("to_k", seen), ("to_v", seen))
    )
    mixed = attend_heads(query, key, value, heads, None)
    if site in config.prompts:
        return apt.attend(weights, site, PROJECTION, hidden, mixed)
    return linear_of(weights, f"{site}.{PROJECTION}", mixed)
