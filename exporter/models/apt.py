"""APT's prompt beside an attention (spec 3): the tensors of one site, the lookup, and its exact fold at export.

A site is an attention module `<site>` with an output projection and, under `<site>.APT`, the trained tensors
M `mm_tokens` [p,d], A1 `mm.0.weight` [r,d], A2 `mm.1.weight` [d,r] and `scale` [1]. A graph holds the folded form
(spec 8.1): keys K = M + (M A1^T) A2^T, and exp(scale) inside values and projection.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..checkpoints.lazy import LazyTensor
from .component import Weight
from .layers import linear
from .memory import approximated_prompt

Shapes = dict[str, tuple[int, ...]]


def official_shapes(site: str, rows: int, rank: int, width: int) -> Shapes:
    """The trained tensors of a site under their official names: p = rows, r = rank, d = width."""
    return {
        f"{site}.APT.mm_tokens": (rows, width),
        f"{site}.APT.mm.0.weight": (rank, width),
        f"{site}.APT.mm.1.weight": (width, rank),
        f"{site}.APT.scale": (1,),
    }


def graph_weights(site: str, projection: str, rows: int, width: int) -> dict[str, Weight]:
    """What a graph holds of a site: the folded projection `<site>.<projection>` and the prompt's two tables."""
    return {
        f"{site}.{projection}.weight": Weight((width, width)),
        f"{site}.{projection}.bias": Weight((width,)),
        f"{site}.APT.keys": Weight((rows, width)),
        f"{site}.APT.values": Weight((rows, width)),
    }


def fold(official: Mapping[str, LazyTensor], site: str, projection: str) -> dict[str, LazyTensor]:
    """The tensors of `graph_weights` out of the official ones, computed in float64 whenever they are loaded."""
    tokens, first, second, scale = (
        official[f"{site}.APT.{leaf}"] for leaf in ("mm_tokens", "mm.0.weight", "mm.1.weight", "scale")
    )
    weight, bias = official[f"{site}.{projection}.weight"], official[f"{site}.{projection}.bias"]
    return {
        f"{site}.{projection}.weight": derived((weight, scale), lambda w, s: s.exp() * w),
        f"{site}.{projection}.bias": derived((bias, scale), lambda b, s: s.exp() * b),
        f"{site}.APT.keys": derived((tokens, first, second), lambda m, a1, a2: m + (m @ a1.T) @ a2.T),
        f"{site}.APT.values": derived((tokens, scale), lambda m, s: s.exp() * m),
    }


def derived(
    parts: Sequence[LazyTensor], formula: Callable[..., Tensor], shape: tuple[int, ...] | None = None
) -> LazyTensor:
    """`formula` of tensors of the checkpoint in float64, rounded once to float32; by default of the first's shape. Its
    origin names all of them: they may be of several files."""

    def load() -> Tensor:
        return formula(*(part.load().double() for part in parts)).float()

    origin = " with ".join(part.origin for part in parts)
    return LazyTensor(shape or parts[0].shape, torch.float32, origin, load)


def attend(weights: Mapping[str, Tensor], site: str, projection: str, hidden: Tensor, mixed: Tensor) -> Tensor:
    """`exp(scale) (y + w (a M))` with y = projection(mixed), a = relu(hidden K^T), w = max over a's rows (spec 3).

    hidden [B,N,d] is what the attention's queries were made of, mixed [B,N,d] the merged heads. weights hold the
    folded form or the official one; this is the only place that tells them apart.
    """
    projected = linear(mixed, weights[f"{site}.{projection}.weight"], weights[f"{site}.{projection}.bias"])
    if f"{site}.APT.keys" in weights:
        keys, values = weights[f"{site}.APT.keys"], weights[f"{site}.APT.values"]
        # One of them may be kept in float32 in a half graph; the operator takes one type.
        dtype = torch.promote_types(projected.dtype, torch.promote_types(keys.dtype, values.dtype))
        return approximated_prompt(hidden.to(dtype), projected.to(dtype), keys.to(dtype), values.to(dtype))
    tokens = weights[f"{site}.APT.mm_tokens"]
    keys = tokens + (tokens @ weights[f"{site}.APT.mm.0.weight"].T) @ weights[f"{site}.APT.mm.1.weight"].T
    return weights[f"{site}.APT.scale"].exp() * approximated_prompt(hidden, projected, keys, tokens)
