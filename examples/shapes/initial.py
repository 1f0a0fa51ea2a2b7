"""Initial weights of the small model, and the training's own parametrization of two of them."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...exporter.models import memvp_llama

# Trained as lambda * fc2: at lambda = 0.01 the projector would learn a hundred times too slowly.
LAMBDA_SCALED = ("adapter_proj.fc2.weight", "adapter_proj.fc2.bias")

_TABLES = {
    "model.embed_tokens.weight": 1.0,
    "adapter_emb1": 0.1,
    "adapter_emb2": 0.5,
    "visual.positional_embedding": 0.3,
    "visual.class_embedding": 0.3,
}
# The last matrix of a residual branch starts small, so that depth does not drown the embeddings.
_BRANCH_ENDS = ("o_proj.weight", "down_proj.weight", "out_proj.weight", "c_proj.weight", "adapter_mlp.fc2.weight")
# Z then has elements of about 0.2: larger ones would let the sum over 64 rows swamp the residual stream.
_PROJECTOR_GAIN = 0.35


def training_config(config: memvp_llama.Config) -> memvp_llama.Config:
    """The config under which the weights of LAMBDA_SCALED are read while they are trained."""
    return replace(config, visual_scale=1.0)


def initial_weights(config: memvp_llama.Config, generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights by official name, float32."""
    shapes = {name: weight.shape for part in memvp_llama.components(config) for name, weight in part.weights.items()}
    weights = {name: _initial(name, shape, generator) for name, shape in shapes.items()}
    # Output rows start along the input rows: what a lookup writes in the words of its memory row can be read at once.
    weights["lm_head.weight"] = 0.05 * weights["model.embed_tokens.weight"]
    return weights


def _initial(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    if "norm" in name or ".ln_" in name:
        return torch.ones(shape)
    scale = _TABLES.get(name) or 1 / math.sqrt(math.prod(shape[1:]))
    if name == "adapter_proj.fc2.weight":
        scale *= _PROJECTOR_GAIN
    if name.endswith(_BRANCH_ENDS):
        scale *= 0.4
    return scale * torch.randn(shape, generator=generator)
