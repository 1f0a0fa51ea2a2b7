"""OpenAI's CLIP image tower with MemVP's adapters, under its official names (spec 1.2)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.huggingface_clip import HEAD_WIDTH, NORM_EPS
from .component import Weight
from .layers import attention, layer_norm, linear, merge_heads, split_heads
from .memory import ACTIVATIONS


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of the tower. `blocks` are the blocks of the file; the forward pass uses all but the last."""

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
        """Patch tokens that come out, the class token dropped."""
        return self.grid * self.grid


def tower_weights(config: TowerConfig) -> dict[str, Weight]:
    """Every tensor the forward pass reads, by official name."""
    d, r = config.width, config.adapter_dim
    weights = {
        "visual.conv1.weight": Weight((d, 3, config.patch, config.patch)),
        "visual.class_embedding": Weight((d,)),
        "visual.positional_embedding": Weight((1 + config.rows, d)),
    }
    for norm in ("ln_pre", "ln_post"):
        weights |= _norm(f"visual.{norm}", d)
    for i in range(config.blocks - 1):
        block = f"visual.transformer.resblocks.{i}"
        weights |= _norm(f"{block}.ln_1", d) | _norm(f"{block}.ln_2", d)
        weights |= {
            f"{block}.attn.in_proj_weight": Weight((3 * d, d)),
            f"{block}.attn.in_proj_bias": Weight((3 * d,)),
            f"{block}.attn.out_proj.weight": Weight((d, d)),
            f"{block}.attn.out_proj.bias": Weight((d,)),
            f"{block}.mlp.c_fc.weight": Weight((4 * d, d)),
            f"{block}.mlp.c_fc.bias": Weight((4 * d,)),
            f"{block}.mlp.c_proj.weight": Weight((d, 4 * d)),
            f"{block}.mlp.c_proj.bias": Weight((d,)),
        }
        if r:
            weights |= {
                f"backbone.{block}.adapter_mlp.fc1.weight": Weight((r, d)),
                f"backbone.{block}.adapter_mlp.fc2.weight": Weight((d, r)),
            }
    return weights


def _norm(name: str, width: int) -> dict[str, Weight]:
    return {f"{name}.weight": Weight((width,), float32=True), f"{name}.bias": Weight((width,), float32=True)}


def tower(weights: Mapping[str, Tensor], config: TowerConfig, pixels: Tensor) -> Tensor:
    """Patch features of the second-to-last block after ln_post (spec 1.2).

    pixels [B,3,S,S], normalized, in the weights' dtype -> [B,grid*grid,width].
    """
    x = F.conv2d(pixels, weights["visual.conv1.weight"], stride=config.patch)
    x = x.flatten(2).transpose(1, 2)
    first = weights["visual.class_embedding"].expand(x.shape[0], 1, -1)
    x = torch.cat([first, x], 1) + weights["visual.positional_embedding"]
    x = _layer_norm(weights, "visual.ln_pre", x)
    for i in range(config.blocks - 1):
        x = _block(weights, config, f"visual.transformer.resblocks.{i}", x)
    return _layer_norm(weights, "visual.ln_post", x[:, 1:])


def _block(weights: Mapping[str, Tensor], config: TowerConfig, name: str, x: Tensor) -> Tensor:
    def apply(part: str, y: Tensor) -> Tensor:
        return linear(y, weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"])

    normed = _layer_norm(weights, f"{name}.ln_1", x)
    packed = linear(normed, weights[f"{name}.attn.in_proj_weight"], weights[f"{name}.attn.in_proj_bias"])
    query, key, value = (split_heads(part, config.width // HEAD_WIDTH) for part in packed.chunk(3, -1))
    x = x + apply("attn.out_proj", merge_heads(attention(query, key, value, None)))
    normed = _layer_norm(weights, f"{name}.ln_2", x)
    out = apply("mlp.c_proj", ACTIVATIONS["quick_gelu"](apply("mlp.c_fc", normed)))
    if config.adapter_dim:
        adapter = f"backbone.{name}.adapter_mlp"
        narrow = F.gelu(linear(normed, weights[f"{adapter}.fc1.weight"]))
        out = out + config.adapter_scale * linear(narrow, weights[f"{adapter}.fc2.weight"])
    return x + out


def _layer_norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], NORM_EPS)
