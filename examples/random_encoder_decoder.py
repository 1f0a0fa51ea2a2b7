"""What random sources of MemVP on BART and T5 have in common: adapter, features of images, model.toml."""

from pathlib import Path

import numpy as np
import torch

from .random_source import random_values

TASKS = ("vqa", "gqa", "caption")
ADAPTER = "memvp.pth"
Shapes = dict[str, tuple[int, ...]]


def memory_shapes(dim: int, rows: int, projector_dim: int, width: int) -> Shapes:
    """MemVP's trained tensors, by analogy with its LLaMA code (spec 2.3)."""
    return {
        "adapter_emb1": (1, rows, dim),
        "adapter_emb2": (1, rows, dim),
        "adapter_proj.fc1.weight": (projector_dim, width),
        "adapter_proj.fc1.bias": (projector_dim,),
        "adapter_proj.fc2.weight": (dim, projector_dim),
        "adapter_proj.fc2.bias": (dim,),
    }


def write_adapter(folder: Path, shapes: Shapes, seed: int) -> None:
    """The state dict of the memory."""
    generator = torch.Generator().manual_seed(seed + 1)
    torch.save({name: random_values(name, shape, generator) for name, shape in shapes.items()}, folder / ADAPTER)


def write_features(folder: Path, grid: int, width: int, seed: int) -> None:
    """Two files of image features, a grid of `grid` x `grid` in each, to ask questions about."""
    random = np.random.default_rng(seed)
    for name in ("first", "second"):
        np.save(folder / f"{name}.npy", random.standard_normal((grid * grid, width)).astype(np.float32))


def write_toml(folder: Path, family: str, task: str, tokenizer: str, options: str) -> Path:
    """model.toml beside the weights; returns its path."""
    toml = folder / "model.toml"
    toml.write_text(
        f'family = "{family}"\ntask = "{task}"\n\n[files]\nbase = "base"\nadapter = "{ADAPTER}"\n'
        f'tokenizer = "{tokenizer}"\n\n[options]\n{options}'
    )
    return toml
