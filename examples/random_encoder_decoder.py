"""What random sources of MemVP on BART and T5 have in common: base, adapter, features of images, model.toml."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .random_source import random_values

TASKS = ("vqa", "gqa", "caption")
_ADAPTER = "memvp.pth"


@dataclass(frozen=True)
class MemorySizes:
    """Sizes of what is around a host; the defaults are odd on purpose. Every image has rows features of `width`, and
    grid is the side of what the files of features hold."""

    rows: int = 9
    grid: int = 4
    width: int = 28
    projector_dim: int = 14
    max_sequence: int = 26
    max_batch: int = 8


# Of the bases, with VL-PET's features.
BASE_MEMORY = {"rows": 36, "grid": 7, "width": 2048, "projector_dim": 128, "max_sequence": 64, "max_batch": 16}


def write_base(folder: Path, state: Mapping[str, torch.Tensor], config: Mapping[str, object]) -> Path:
    """The host's weights and config.json in a folder below `folder`, which is returned: the tokenizer's place too."""
    from safetensors.torch import save_file

    base = folder / "base"
    base.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), base / "model.safetensors", {"format": "pt"})
    (base / "config.json").write_text(json.dumps(config))
    return base


def write_memory(folder: Path, family: str, task: str, tokenizer: str, dim: int, sizes: MemorySizes, seed: int) -> Path:
    """The adapter of a host of width `dim`, features of two images, and model.toml, whose path is returned. tokenizer
    is its path from `folder`."""
    _write_adapter(folder, dim, sizes, seed)
    random = np.random.default_rng(seed)
    for name in ("first", "second"):
        values = random.standard_normal((sizes.grid * sizes.grid, sizes.width))
        np.save(folder / f"{name}.npy", values.astype(np.float32))
    toml = folder / "model.toml"
    toml.write_text(
        f'family = "{family}"\ntask = "{task}"\n\n[files]\nbase = "base"\nadapter = "{_ADAPTER}"\n'
        f'tokenizer = "{tokenizer}"\n\n'
        f"[options]\nmax_sequence = {sizes.max_sequence}\nmax_batch = {sizes.max_batch}\n"
    )
    return toml


def _write_adapter(folder: Path, dim: int, sizes: MemorySizes, seed: int) -> None:
    """MemVP's trained tensors, by analogy with its LLaMA code (spec 2.3)."""
    shapes: dict[str, tuple[int, ...]] = {
        "adapter_emb1": (1, sizes.rows, dim),
        "adapter_emb2": (1, sizes.rows, dim),
        "adapter_proj.fc1.weight": (sizes.projector_dim, sizes.width),
        "adapter_proj.fc1.bias": (sizes.projector_dim,),
        "adapter_proj.fc2.weight": (dim, sizes.projector_dim),
        "adapter_proj.fc2.bias": (dim,),
    }
    generator = torch.Generator().manual_seed(seed + 1)
    torch.save({name: random_values(name, shape, generator) for name, shape in shapes.items()}, folder / _ADAPTER)
