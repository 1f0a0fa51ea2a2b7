"""MemVP's projector, from the features of an image to rows of the memory (spec 1.3)."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from .component import Weight, linear_weights
from .layers import linear_of

NAME = "adapter_proj"


def projector_weights(width: int, narrow: int, dim: int) -> dict[str, Weight]:
    """Its tensors, from features of `width` over `narrow` to rows of `dim`."""
    return linear_weights(f"{NAME}.fc1", narrow, width) | linear_weights(f"{NAME}.fc2", dim, narrow)


def project(weights: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """`W2 silu(W1 z + c1) + c2` of features [B,v,f]: [B,v,d]."""
    return linear_of(weights, f"{NAME}.fc2", F.silu(linear_of(weights, f"{NAME}.fc1", features)))
