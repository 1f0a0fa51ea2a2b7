"""Checkpoints of PyTorch Lightning (spec 4.4): tensors, and the configuration that the training loop left beside them.

Their `callbacks` are keyed by classes of Lightning itself, and configs may be dicts of sacred's: nothing of that is
imported or run, see `unpickler.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lazy import LazyTensor
from .torch_file import flatten_module, read_torch_file
from .unpickler import Inert


@dataclass(frozen=True)
class LightningCheckpoint:
    """weights by their names in the model, and config, `hyper_parameters['config']`: empty where there is none."""

    weights: dict[str, LazyTensor]
    config: dict[str, Any]
    files: list[Path]


def read_lightning(path: Path) -> LightningCheckpoint:
    """Reads a `.ckpt`, or the state dict of one alone. InputError for another file, or one without tensors."""
    content = read_torch_file(path)
    config = _items(_items(_items(content).get("hyper_parameters")).get("config"))
    return LightningCheckpoint(flatten_module(content, str(path)), config, [path])


def _items(mapping: Any) -> dict[str, Any]:
    if isinstance(mapping, Inert):
        return mapping.items
    return mapping if isinstance(mapping, dict) else {}
