"""The pre-norm blocks of CLIP's two towers under Hugging Face's names, with APT's prompts beside any of them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from . import apt
from .component import Weight, linear_weights, norm_weights
from .layers import attend_heads, layer_norm_of, linear_of
from .memory import ACTIVATIONS

PROJECTION = "out_proj"


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the blocks of one tower. activation is a key of `memory.ACTIVATIONS`; prompt_rows are the p of every
    block, 0 for one without prompts, and may be left out where none has any."""

    width: int
    layers: int
    heads: int
    ffn_dim: int
    activation: str
    eps: float
    prompt_rows: tuple[int, ...] = ()

    def at(self, most: int) -> "EncoderConfig":
        """The same with at most so many blocks."""
        return replace(self, layers=min(most, self.layers), prompt_rows=self.prompt_rows[:most])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `from_dict` reads it back."""
        return {**asdict(self), "prompt_rows": list(self.prompt_rows)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "EncoderConfig":
        """The inverse of `to_dict`."""
        return cls(**{**data, "prompt_rows": tuple(data["prompt_rows"])})


def stem_of(tower: str) -> str:
    """What the blocks of a tower, `text_model` or `vision_model`, are numbered behind."""
    return f"{tower}.encoder.layers"


def layer_names(tower: str, layers: int) -> list[str]:
    """The blocks of a tower."""
    return [f"{stem_of(tower)}.{i}" for i in range(layers)]


def sites(tower: str, config: EncoderConfig) -> Iterator[tuple[str, int]]:
    """Where prompts are, each with its p: the attention of some blocks."""
    for layer, rows in zip(layer_names(tower, config.layers), config.prompt_rows, strict=False):
        if rows:
            yield f"{layer}.self_attn", rows


def encoder_weights(tower: str, config: EncoderConfig) -> dict[str, Weight]:
    """Every tensor of the blocks as a graph holds it, prompts and the projections beside them folded."""
    d, weights = config.width, dict[str, Weight]()
    for layer in layer_names(tower, config.layers):
        weights |= norm_weights(f"{layer}.layer_norm1", d) | norm_weights(f"{layer}.layer_norm2", d)
        for part in ("q_proj", "k_proj", "v_proj", PROJECTION):
            weights |= linear_weights(f"{layer}.self_attn.{part}", d, d)
        weights |= linear_weights(f"{layer}.mlp.fc1", config.ffn_dim, d)
        weights |= linear_weights(f"{layer}.mlp.fc2", d, config.ffn_dim)
    for site, rows in sites(tower, config):
        weights |= apt.graph_weights(site, PROJECTION, rows, d)
    return weights


def encode(weights: Mapping[str, Tensor], tower: str, config: EncoderConfig, x: Tensor, bias: Tensor | None) -> Tensor:
    """`x += APT(attention(n), n), n = LN(x);  x += fc2(act(fc1(LN(x))))` for every block, [B,N,width]; bias is added to
    the scores, float32, None where all see all (spec 6)."""
    prompted = {site for site, _ in sites(tower, config)}
    for layer in layer_names(tower, config.layers):
        x = x + _attend(weights, config, f"{layer}.self_attn", prompted, _norm(weights, config, layer, 1, x), bias)
        wide = linear_of(weights, f"{layer}.mlp.fc1", _norm(weights, config, layer, 2, x))
        x = x + linear_of(weights, f"{layer}.mlp.fc2", ACTIVATIONS[config.activation](wide))
    return x


def _norm(weights: Mapping[str, Tensor], config: EncoderConfig, layer: str, number: int, x: Tensor) -> Tensor:
    return layer_norm_of(weights, f"{layer}.layer_norm{number}", x, config.eps)


def _attend(
    weights: Mapping[str, Tensor],
    config: EncoderConfig,
    name: str,
    prompted: set[str],
    hidden: Tensor,
    bias: Tensor | None,
) -> Tensor:
    query, key, value = (linear_of(weights, f"{name}.{part}_proj", hidden) for part in ("q", "k", "v"))
    mixed = attend_heads(query, key, value, config.heads, bias)
    if name in prompted:
        return apt.attend(weights, name, PROJECTION, hidden, mixed)
    return linear_of(weights, f"{name}.{PROJECTION}", mixed)
