"""Layers shared by the families: norms and attention written out in the plain pattern every target understands.

Norm statistics and softmax are float32 in every precision; a no-op in float32 graphs. Weights that `--keep-fp32` names
are float32 in half graphs: what is computed with them stays float32 until a module with half weights reads it.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

# Half of float32's lowest value: a negative score added to it stays finite, so that a query with no key at all gets
# meaningless numbers but never NaN.
MASKED = -1.7e38


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b` of x [...,n], weight [m,n] and bias [m]: [...,m] in the weight's dtype, to which x is cast. It is not
    cast back: where a module is kept in float32 because its results are beyond the range of float16, they reach the
    next module unharmed."""
    return F.linear(x.to(weight.dtype), weight, bias)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float | Tensor) -> Tensor:
    """LayerNorm over the last axis of x [...,d], entirely in float32, cast back to x's dtype. weight and bias are
    float32 [d].

    An eps near 1e-12 must be a tensor of the graph: as a number in it, the exporter's optimizer takes it for 0, and a
    constant row becomes NaN.
    """
    x32 = x.float()
    centred = x32 - x32.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return (centred * torch.rsqrt(variance + eps) * weight + bias).to(x.dtype)


def linear_of(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """`linear` with `<name>.weight` and `<name>.bias`."""
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def layer_norm_of(weights: Mapping[str, Tensor], name: str, x: Tensor, eps: float | Tensor) -> Tensor:
    """`layer_norm` with `<name>.weight` and `<name>.bias`."""
    return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps)` of x [...,d] in float32, cast to the weight's dtype, then times weight [d] (spec
    1.4)."""
    x32 = x.float()
    return (x32 * torch.rsqrt((x32 * x32).mean(-1, keepdim=True) + eps)).to(weight.dtype) * weight


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float | None = None) -> Tensor:
    """`softmax(s q k^T + bias) v` for [B,H,T,hd] x [B,H,S,hd]; bias is float32, broadcast to [B,H,T,S]. scale is s,
    1 / sqrt(hd) where it is None."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = ((query if scale == 1 else query * scale) @ key.transpose(-1, -2)).float()
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, -1).to(value.dtype) @ value


def causal_bias(attention_mask: Tensor, queries: int) -> Tensor:
    """The additive float32 mask [B,1,T,P+T] of `queries` new columns after P past ones.

    Column c is visible to row r where c <= P + r and attention_mask[b, c] is not 0; so padding may lie anywhere.
    """
    total = attention_mask.shape[1]
    columns = torch.arange(total, device=attention_mask.device)
    rows = torch.arange(queries, device=attention_mask.device) + (total - queries)
    visible = (columns[None, :] <= rows[:, None])[None] & (attention_mask != 0)[:, None, :]
    return torch.where(visible, 0.0, MASKED)[:, None]


def later_bias(past: int, queries: int, like: Tensor) -> Tensor:
    """The additive float32 mask [T,P+T] of `queries` columns after `past` ones, none of them padding, on the device of
    `like`."""
    columns = torch.arange(past + queries, device=like.device)
    rows = torch.arange(queries, device=like.device) + past
    return torch.where(columns[None, :] <= rows[:, None], 0.0, MASKED)


def key_bias(mask: Tensor) -> Tensor:
    """The additive float32 mask [B,1,1,T] of a text's columns, mask [B,T]."""
    return torch.where(mask != 0, 0.0, MASKED)[:, None, None]


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split layout (Hugging Face): pairs are (i, i + hd/2). x [B,H,T,hd]; cos, sin
    [B,1,T,hd/2] float32; the rotation is float32 as in the official code, cast back to x's dtype."""
    half = x.shape[-1] // 2
    first, second = x.float()[..., :half], x.float()[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B,T,H*hd] -> [B,H,T,hd]"""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B,H,T,hd] -> [B,T,H*hd]"""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def with_past(past: Tensor, new: Tensor) -> Tensor:
    """Past and new columns [B,H,P+T,hd] in the cache's dtype, whatever the projection's is."""
    return torch.cat([past, new.to(past.dtype)], 2)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float | None = None) -> Tensor:
    """`attention` of [B,H,T,hd] to [B,H,S,hd], heads merged: [B,T,H*hd]. Where one of the three is kept in float32 the
    attention is too."""
    dtype = torch.promote_types(query.dtype, torch.promote_types(key.dtype, value.dtype))
    return merge_heads(attention(query.to(dtype), key.to(dtype), value.to(dtype), bias, scale))


def attend_heads(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    """`attend` of queries [B,T,d] to keys and values [B,S,d], split into heads: [B,T,d]."""
    query, key, value = (split_heads(part, heads) for part in (query, key, value))
    return attend(query, key, value, bias)


@torch.library.custom_op("memvp::select_positions", mutates_args=())
def select_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """Rows `positions` [B,K] int64 of hidden [B,T,d] -> [B,K,d]. An operator, so that it exports as one GatherND."""
    return torch.take_along_dim(hidden, positions[..., None], 1)


@select_positions.register_fake
def _(hidden: Tensor, positions: Tensor) -> Tensor:
    return hidden.new_empty(positions.shape[0], positions.shape[1], hidden.shape[2])


def _select_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[1])
    ctx.length = inputs[0].shape[1]


def _select_backward(ctx, gradient):  # type: ignore[no-untyped-def]
    (positions,) = ctx.saved_tensors
    full = gradient.new_zeros(gradient.shape[0], ctx.length, gradient.shape[2])
    return full.scatter_add(1, positions[..., None].expand_as(gradient), gradient), None


select_positions.register_autograd(_select_backward, setup_context=_select_setup)
