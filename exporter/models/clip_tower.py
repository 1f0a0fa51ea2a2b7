"""OpenAI's CLIP image tower under its official names, with MemVP's adapters (spec 1.2) or plain in METER (spec 5.1)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.huggingface_clip import HEAD_WIDTH, NORM_EPS
from .component import Weight, linear_weights, norm_weights
from .layers import attention, layer_norm_of, linear, linear_of, merge_heads, split_heads
from .memory import ACTIVATIONS

STEMS = ("visual.transformer.resblocks", "backbone.visual.transformer.resblocks")


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of the tower. `blocks` are CLIP's own; the forward pass uses all but the last. No adapter_dim: none."""

    width: int
    blocks: int
    patch: int
    grid: int
    adapter_dim: int
    adapter_scale: float

    @property
    def image_size(self) -> int:
        """Side of the square input image in pixels."""
        return self.patch * self.grid

    @property
    def rows(self) -> int:
        """Patches of an image."""
        return self.grid * self.grid

    def at(self, most: int) -> "TowerConfig":
        """The same with at most so many blocks in the forward pass."""
        return replace(self, blocks=min(most + 1, self.blocks))


def tower_weights(config: TowerConfig) -> dict[str, Weight]:
    """Every tensor the forward pass reads, by official name."""
    d, r = config.width, config.adapter_dim
    weights = {
        "visual.conv1.weight": Weight((d, 3, config.patch, config.patch)),
        "visual.class_embedding": Weight((d,)),
        "visual.positional_embedding": Weight((1 + config.rows, d)),
    }
    for norm in ("ln_pre", "ln_post"):
        weights |= norm_weights(f"visual.{norm}", d)
    for i in range(config.blocks - 1):
        block = f"visual.transformer.resblocks.{i}"
        weights |= norm_weights(f"{block}.ln_1", d) | norm_weights(f"{block}.ln_2", d)
        weights |= {
            f"{block}.attn.in_proj_weight": Weight((3 * d, d)),
            f"{block}.attn.in_proj_bias": Weight((3 * d,)),
        }
        weights |= linear_weights(f"{block}.attn.out_proj", d, d)
        weights |= linear_weights(f"{block}.mlp.c_fc", 4 * d, d) | linear_weights(f"{block}.mlp.c_proj", d, 4 * d)
        if r:
            weights |= {
                f"backbone.{block}.adapter_mlp.fc1.weight": Weight((r, d)),
                f"backbone.{block}.adapter_mlp.fc2.weight": Weight((d, r)),
            }
    return weights


def tower(weights: Mapping[str, Tensor], config: TowerConfig, pixels: Tensor, class_token: bool = False) -> Tensor:
    """Features of the second-to-last block after ln_post (spec 1.2): [B,grid*grid,width] of the patches, after one of
    the class token where that is wanted.

    pixels [B,3,S,S], normalized, in the weights' dtype.
    """
    x = F.conv2d(pixels, weights["visual.conv1.weight"], stride=config.patch)
    x = x.flatten(2).transpose(1, 2)
    first = weights["visual.class_embedding"].expand(x.shape[0], 1, -1)
    x = torch.cat([first, x], 1) + weights["visual.positional_embedding"]
    x = layer_norm_of(weights, "visual.ln_pre", x, NORM_EPS)
    for i in range(config.blocks - 1):
        x = _block(weights, config, f"visual.transformer.resblocks.{i}", x)
    return layer_norm_of(weights, "visual.ln_post", x if class_token else x[:, 1:], NORM_EPS)


def _block(weights: Mapping[str, Tensor], config: TowerConfig, name: str, x: Tensor) -> Tensor:
    normed = layer_norm_of(weights, f"{name}.ln_1", x, NORM_EPS)
    packed = linear(normed, weights[f"{name}.attn.in_proj_weight"], weights[f"{name}.attn.in_proj_bias"])
    query, key, value = (split_heads(part, config.width // HEAD_WIDTH) for part in packed.chunk(3, -1))
    x = x + linear_of(weights, f"{name}.attn.out_proj", merge_heads(attention(query, key, value, None)))
    normed = layer_norm_of(weights, f"{name}.ln_2", x, NORM_EPS)
    wide = ACTIVATIONS["quick_gelu"](linear_of(weights, f"{name}.mlp.c_fc", normed))
    out = linear_of(weights, f"{name}.mlp.c_proj", wide)
    if config.adapter_dim:
        adapter = f"backbone.{name}.adapter_mlp"
        narrow = F.gelu(linear(normed, weights[f"{adapter}.fc1.weight"]))
        out = out + config.adapter_scale * linear(narrow, weights[f"{adapter}.fc2.weight"])
    return x + out
