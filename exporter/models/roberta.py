"""RoBERTa's encoder under Hugging Face's names (spec 5.1), and the parts of a BERT layer that METER's own share."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .component import Weight, linear_weights, norm_weights
from .layers import attend_heads, layer_norm_of, linear_of

NAME = "text_transformer"
EPS = 1e-5
PAD = 1
STEMS = (f"{NAME}.encoder.layer",)
# The graph's one table in place of the two that the checkpoint has.
TABLE = f"{NAME}.embeddings.positions"


@dataclass(frozen=True)
class RobertaConfig:
    """Sizes of the encoder. positions are the rows of its table, of which the first PAD+1 are no token's; length is the
    longest text."""

    dim: int
    layers: int
    heads: int
    ffn_dim: int
    vocab: int
    positions: int
    length: int


def encoder_weights(config: RobertaConfig) -> dict[str, Weight]:
    """Every tensor of the forward pass but the position table, by official name."""
    d = config.dim
    weights = {f"{NAME}.embeddings.word_embeddings.weight": Weight((config.vocab, d))}
    weights |= norm_weights(f"{NAME}.embeddings.LayerNorm", d)
    for i in range(config.layers):
        layer = f"{NAME}.encoder.layer.{i}"
        weights |= attention_weights(f"{layer}.attention.self", d)
        weights |= linear_weights(f"{layer}.attention.output.dense", d, d)
        weights |= norm_weights(f"{layer}.attention.output.LayerNorm", d)
        weights |= feed_forward_weights(layer, d, config.ffn_dim)
    return weights


def attention_weights(name: str, width: int) -> dict[str, Weight]:
    """The tensors of `mixed_heads`."""
    parts = [linear_weights(f"{name}.{part}", width, width) for part in ("query", "key", "value")]
    return {key: weight for part in parts for key, weight in part.items()}


def feed_forward_weights(name: str, width: int, hidden: int) -> dict[str, Weight]:
    """The tensors of `feed_forward`."""
    both = linear_weights(f"{name}.intermediate.dense", hidden, width) | linear_weights(
        f"{name}.output.dense", width, hidden
    )
    return both | norm_weights(f"{name}.output.LayerNorm", width)


def encode(weights: Mapping[str, Tensor], config: RobertaConfig, ids: Tensor, bias: Tensor) -> Tensor:
    """Last hidden states [B,T,dim] of ids [B,T] int64; bias is that of `layers.key_bias`."""
    words = F.embedding(ids, weights[f"{NAME}.embeddings.word_embeddings.weight"])
    x = words + F.embedding(position_ids(ids), _table(weights))
    x = layer_norm_of(weights, f"{NAME}.embeddings.LayerNorm", x, EPS)
    for i in range(config.layers):
        layer = f"{NAME}.encoder.layer.{i}"
        mixed = mixed_heads(weights, f"{layer}.attention.self", config.heads, x, x, bias)
        attended = linear_of(weights, f"{layer}.attention.output.dense", mixed) + x
        x = layer_norm_of(weights, f"{layer}.attention.output.LayerNorm", attended, EPS)
        x = feed_forward(weights, layer, x, EPS)
    return x


def _table(weights: Mapping[str, Tensor]) -> Tensor:
    """Positions with the one token type there is, [positions,dim]."""
    if TABLE in weights:
        return weights[TABLE]
    rows, types = (weights[f"{NAME}.embeddings.{kind}_embeddings.weight"] for kind in ("position", "token_type"))
    return rows + types[0]


def position_ids(ids: Tensor) -> Tensor:
    """`cumsum(ids != PAD) * (ids != PAD) + PAD`, [B,T] int64: padding may lie anywhere (spec 5.1)."""
    columns = torch.arange(ids.shape[1], device=ids.device)
    real = ids != PAD
    # A sum over columns up to each: not every parser knows cumulative ones.
    before = ((columns[None, :] <= columns[:, None])[None] & real[:, None, :]).float().sum(-1)
    return (before * real.float()).long() + PAD


def mixed_heads(
    weights: Mapping[str, Tensor], name: str, heads: int, x: Tensor, source: Tensor, bias: Tensor | None
) -> Tensor:
    """Attention of x [B,N,d] to source [B,M,d], before its output projection: [B,N,d]."""
    query, key, value = (
        linear_of(weights, f"{name}.{part}", rows) for part, rows in (("query", x), ("key", source), ("value", source))
    )
    return attend_heads(query, key, value, heads, bias)


def feed_forward(weights: Mapping[str, Tensor], name: str, x: Tensor, eps: float | Tensor) -> Tensor:
    """`LN(dense(gelu(dense(x))) + x)` of x [B,T,d], with GELU's erf form."""
    hidden = F.gelu(linear_of(weights, f"{name}.intermediate.dense", x))
    return layer_norm_of(
        weights, f"{name}.output.LayerNorm", linear_of(weights, f"{name}.output.dense", hidden) + x, eps
    )
