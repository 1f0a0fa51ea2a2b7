"""MemVP on LLaMA (spec 1): the forward passes of its two components, `vision` and `decoder`.

LLaMA weights carry Hugging Face names, and so Hugging Face's row order of q and k (rotary pairs i, i + hd/2); tower
and adapter weights carry the names of the official files.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.llama_layout import Sizes, shapes
from .clip_tower import STEMS, TowerConfig, tower, tower_weights
from .component import Cache, Component, Depth, Port, Weight
from .layers import attend, causal_bias, linear, rms_norm, rotary, select_positions, split_heads, with_past
from .memory import visual_memory_ffn, visual_memory_operands
from .projector import project, projector_weights

ACTIVATION = "silu"


@dataclass(frozen=True)
class Config:
    """Everything the graphs depend on. adapter_scale is s (0.1), visual_scale is lambda (0.01) of the paper's code."""

    tower: TowerConfig
    dim: int
    layers: int
    heads: int
    ffn_dim: int
    vocab: int
    norm_eps: float
    rope_theta: float
    projector_dim: int
    memory_rows: int
    adapter_scale: float
    visual_scale: float
    max_sequence: int
    max_batch: int

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`."""
        return cls(**{**data, "tower": TowerConfig(**data["tower"])})


def components(config: Config) -> tuple[Component, ...]:
    """The graphs of this family, in the order an answer runs through them."""
    return _vision(config), _decoder(config)


def _vision(config: Config) -> Component:
    size, width, d = config.tower.image_size, config.tower.width, config.dim
    weights = tower_weights(config.tower) | projector_weights(width, config.projector_dim, d)

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        return (vision(weights, config, inputs["pixel_values"], inputs["image_indicator"]),)

    return Component(
        name="vision",
        inputs=(
            Port("pixel_values", "float32", ("batch", 3, size, size)),
            Port("image_indicator", "float32", ("batch",)),
        ),
        outputs=(Port("visual_memory", "graph", ("batch", config.tower.rows, d)),),
        weights=weights,
        forward=forward,
        ranges={"batch": (1, config.max_batch)},
        depth=Depth((STEMS,), lambda most: _vision(replace(config, tower=config.tower.at(most)))),
    )


def vision(weights: Mapping[str, Tensor], config: Config, pixels: Tensor, indicator: Tensor) -> Tensor:
    """The visual rows of the memory: `indicator * lambda * f(tower(pixels))` (spec 1.3).

    pixels [B,3,S,S] float32, indicator [B] float32 in {0, 1} -> [B,v,d] in the weights' dtype. lambda and the
    indicator are applied in float32: in half, 0.01 times a small feature would be subnormal twice.
    """
    features = tower(weights, config.tower, pixels.to(weights["visual.conv1.weight"].dtype))
    projected = project(weights, features)
    return (indicator[:, None, None] * (config.visual_scale * projected.float())).to(projected.dtype)


def _decoder(config: Config) -> Component:
    d = config.dim
    host = shapes(Sizes(d, config.layers, config.ffn_dim, config.vocab))
    weights = {name: Weight(shape) for name, shape in host.items()} | {
        "adapter_emb1": Weight((config.memory_rows, d)),
        "adapter_emb2": Weight((config.memory_rows, d)),
    }
    caches = [(i, kind) for i in range(config.layers) for kind in ("key", "value")]
    heads = ("batch", config.heads)

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        return decoder(weights, config, inputs, caches=wanted is None or any("present." in name for name in wanted))

    return Component(
        name="decoder",
        inputs=(
            Port("input_ids", "int64", ("batch", "sequence")),
            Port("attention_mask", "int64", ("batch", "past_sequence + sequence")),
            Port("position_ids", "int64", ("batch", "sequence")),
            Port("logits_positions", "int64", ("batch", "positions")),
            Port("visual_memory", "graph", ("batch", config.tower.rows, d)),
            *(
                Port(f"past_key_values.{i}.{kind}", "graph", (*heads, "past_sequence", config.head_dim))
                for i, kind in caches
            ),
        ),
        outputs=(
            Port("logits", "float32", ("batch", "positions", config.vocab)),
            *(
                Port(f"present.{i}.{kind}", "graph", (*heads, "past_sequence + sequence", config.head_dim))
                for i, kind in caches
            ),
        ),
        weights=weights,
        forward=forward,
        ranges={
            "batch": (1, config.max_batch),
            "sequence": (1, config.max_sequence),
            "past_sequence": (0, config.max_sequence - 1),
            "positions": (1, config.max_sequence),
        },
        constants={"rotary.inverse_frequencies": rotary_frequencies(config)},
        cache=Cache(axis=2, layers=config.layers),
        vocab=config.vocab,
        depth=Depth(
            (("model.layers", "past_key_values", "present"),),
            lambda most: _decoder(replace(config, layers=min(most, config.layers))),
        ),
    )


def rotary_frequencies(config: Config) -> np.ndarray:
    """theta^(-2i/hd) for i in 0..hd/2-1, float32 [hd/2] (spec 1.4)."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    return (1.0 / config.rope_theta**exponents).astype(np.float32)


def decoder(
    weights: Mapping[str, Tensor], config: Config, inputs: Mapping[str, Tensor], caches: bool = True
) -> tuple[Tensor, ...]:
    """LLaMA with the memory beside every FFN (spec 1.4); inputs and outputs are those of the component.

    caches=False leaves the present keys and values out: a large model's are larger than any of its tensors.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    angles = inputs["position_ids"].float()[:, None, :, None] * weights["rotary.inverse_frequencies"]
    cos, sin = angles.cos(), angles.sin()
    bias = causal_bias(mask, ids.shape[1])
    visual = inputs["visual_memory"]
    present: list[Tensor] = []

    x = F.embedding(ids, weights["model.embed_tokens.weight"])
    for i in range(config.layers):
        layer = f"model.layers.{i}"
        normed = rms_norm(x, weights[f"{layer}.input_layernorm.weight"], config.norm_eps)
        query, key, value = (
            split_heads(linear(normed, weights[f"{layer}.self_attn.{n}_proj.weight"]), config.heads)
            for n in ("q", "k", "v")
        )
        # Where one of the three is kept in float32 the attention is too, over a cache that is not.
        dtype = torch.promote_types(query.dtype, torch.promote_types(key.dtype, value.dtype))
        key = with_past(inputs[f"past_key_values.{i}.key"], rotary(key, cos, sin))
        value = with_past(inputs[f"past_key_values.{i}.value"], value)
        if caches:
            present += [key, value]
        mixed = attend(rotary(query, cos, sin).to(dtype), key, value, bias)
        x = x + linear(mixed, weights[f"{layer}.self_attn.o_proj.weight"])
        x = x + _feed_forward(weights, config, layer, x, visual)

    x = select_positions(x, inputs["logits_positions"])
    x = rms_norm(x, weights["model.norm.weight"], config.norm_eps)
    return (linear(x, weights["lm_head.weight"]).float(), *present)


def _feed_forward(weights: Mapping[str, Tensor], config: Config, layer: str, x: Tensor, visual: Tensor) -> Tensor:
    normed = rms_norm(x, weights[f"{layer}.post_attention_layernorm.weight"], config.norm_eps)
    gate = F.silu(linear(normed, weights[f"{layer}.mlp.gate_proj.weight"]))
    up = linear(normed, weights[f"{layer}.mlp.up_proj.weight"])
    ffn = linear(gate * up, weights[f"{layer}.mlp.down_proj.weight"])
    tables = weights["adapter_emb1"], weights["adapter_emb2"]
    operands = visual_memory_operands(normed, ffn, visual, *tables)
    return visual_memory_ffn(*operands, config.adapter_scale, ACTIVATION)
