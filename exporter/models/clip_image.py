"""CLIP's image tower under Hugging Face's names, `vision_model.*`, whole: the class token of the last block."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .clip_encoder import EncoderConfig, encode, encoder_weights
from .component import Weight, norm_weights
from .layers import layer_norm_of

NAME = "vision_model"
_PATCHES = f"{NAME}.embeddings.patch_embedding.weight"


@dataclass(frozen=True)
class ImageConfig:
    """Sizes of the tower; patch is the side of a patch in pixels, grid how many there are along a side."""

    encoder: EncoderConfig
    patch: int
    grid: int

    @property
    def image_size(self) -> int:
        """Side of the square input image in pixels."""
        return self.patch * self.grid

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `from_dict` reads it back."""
        return {**vars(self), "encoder": self.encoder.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ImageConfig":
        """The inverse of `to_dict`."""
        return cls(**{**data, "encoder": EncoderConfig.from_dict(data["encoder"])})


def image_weights(config: ImageConfig) -> dict[str, Weight]:
    """Every tensor of `pooled` as a graph holds it; the projection is its user's."""
    d = config.encoder.width
    return {
        f"{NAME}.embeddings.class_embedding": Weight((d,)),
        _PATCHES: Weight((d, 3, config.patch, config.patch)),
        f"{NAME}.embeddings.position_embedding.weight": Weight((1 + config.grid**2, d)),
        **norm_weights(f"{NAME}.pre_layrnorm", d),
        **encoder_weights(NAME, config.encoder),
        **norm_weights(f"{NAME}.post_layernorm", d),
    }


def pooled(weights: Mapping[str, Tensor], config: ImageConfig, pixels: Tensor) -> Tensor:
    """The class token after the last block and its norm [B,1,width] of pixels [B,3,S,S], normalized (spec 6)."""
    kernel, eps = weights[_PATCHES], config.encoder.eps
    patches = F.conv2d(pixels.to(kernel.dtype), kernel, stride=config.patch).flatten(2).transpose(1, 2)
    first = weights[f"{NAME}.embeddings.class_embedding"].expand(patches.shape[0], 1, -1)
    x = torch.cat([first, patches], 1) + weights[f"{NAME}.embeddings.position_embedding.weight"]
    x = layer_norm_of(weights, f"{NAME}.pre_layrnorm", x, eps)
    x = encode(weights, NAME, config.encoder, x, None)
    return layer_norm_of(weights, f"{NAME}.post_layernorm", x[:, :1], eps)
