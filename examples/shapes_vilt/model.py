"""The sizes of the small APT-ViLT, its answers, and the weights that its training starts from."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...exporter.models import apt_vilt
from ...exporter.models.apt_vilt_files import official_shapes
from ..shapes.questions import ANSWERS

LABELS = [answer for answers in ANSWERS.values() for answer in answers]
# A drawing, 160 x 120, becomes 80 x 60: 8 x 6 patches.
SHORTER_SIDE = 60
PATCH = 10


def make_config(vocab: int) -> apt_vilt.Config:
    """Five blocks of width 96 with 24 prompts each."""
    dim = 96
    return apt_vilt.Config(
        task="vqa",
        dim=dim,
        blocks=5,
        heads=4,
        ffn_dim=4 * dim,
        vocab=vocab,
        text_length=16,
        patch=PATCH,
        grid=8,
        token_types=2,
        prompt_rows=24,
        head_dim=2 * dim,
        classes=len(LABELS),
        height=SHORTER_SIDE,
        width=SHORTER_SIDE * 4 // 3,
        max_batch=64,
    )


def initial_weights(config: apt_vilt.Config, generator: torch.Generator, pixels: Tensor) -> dict[str, Tensor]:
    """Random weights by official name, float32; but places near each other start alike, and keys start as the queries:
    so a patch looks at its neighbours from the first step on. Patches of pixels [B,3,H,W] shape their embedding."""
    weights = {name: _initial(name, shape, generator) for name, shape in official_shapes(config).items()}
    embedding = "transformer.patch_embed.proj.weight"
    weights[embedding] = _whitened(weights[embedding], pixels)
    weights["transformer.pos_embed"][0, 1:] = _waves(config.grid, config.dim)
    for i in range(config.blocks):
        queries, keys, _ = weights[f"transformer.blocks.{i}.attn.qkv.weight"].chunk(3)
        keys.copy_(queries)
    return weights


def _whitened(kernel: Tensor, pixels: Tensor) -> Tensor:
    """In place of a patch embedding [d,3,p,p], the d strongest components of the patches of pixels [B,3,H,W], each
    with a variance of about 1: outlines differ by far less than backgrounds do, and would be learnt last."""
    patches = F.unfold(pixels, kernel.shape[-1], stride=kernel.shape[-1]).transpose(1, 2).flatten(0, 1)
    variances, components = torch.linalg.eigh(torch.cov(patches.T))
    strongest = components[:, -len(kernel) :] / (variances[-len(kernel) :] + 1e-3).sqrt()
    return strongest.T.reshape(kernel.shape).contiguous()


def _waves(grid: int, dim: int) -> Tensor:
    """Sines and cosines of row and column at dim / 4 frequencies, [grid^2, dim]."""
    frequencies = torch.linspace(0.1, 1.5, dim // 4)
    angles = torch.arange(grid)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([waves.repeat_interleave(grid, 0), waves.repeat(grid, 1)], 1)


def is_matrix(name: str, weight: Tensor) -> bool:
    """Whether a tensor maps one layer's values to another's, and is no table of rows."""
    return weight.ndim == 2 and name.endswith("weight") and "embeddings" not in name


def _initial(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith(("bias", "APT.scale")):
        return torch.zeros(shape)
    if len(shape) == 1:  # the weight of a norm
        return torch.ones(shape)
    if name.endswith(("pos_embed", "cls_token", "token_type_embeddings.weight", "position_embeddings.weight")):
        return 0.3 * torch.randn(shape, generator=generator)
    if name.endswith(("word_embeddings.weight", "token4classifier")):
        return torch.randn(shape, generator=generator)
    scale = 1 / math.sqrt(math.prod(shape[1:]))
    # The last matrix of a residual branch starts small, so that depth does not drown the embeddings.
    if name.endswith(("attn.proj.weight", "fc2.weight")):
        scale *= 0.4
    return scale * torch.randn(shape, generator=generator)
