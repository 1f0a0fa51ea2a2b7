"""APT's own formulas (spec 3) and plain layers once more, in float64 and on official files, for tests to compare with.

Nothing here is the exporter's: files are read by torch itself, and every formula is unfolded.
"""

import math
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
HEADS = {"vqa": "vqa_classifier", "nlvr2": "nlvr2_classifier", "irtr": "rank_output"}


def official_file(path: Path) -> Weights:
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint")
    modules = {name: ModuleType(name) for name in names}
    vars(modules[names[-1]])["ModelCheckpoint"] = type("ModelCheckpoint", (), {})
    with patch.dict(sys.modules, modules):
        state = torch.load(path, weights_only=False)["state_dict"]
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Rows [N,d] that look at rows [M,d], head by head."""
    width = q.shape[-1] // heads
    parts = [slice(at, at + width) for at in range(0, q.shape[-1], width)]
    return torch.cat([torch.softmax(q[:, s] @ k[:, s].T / math.sqrt(width), -1) @ v[:, s] for s in parts], -1)


def prompted(w: Weights, site: str, res: Tensor, y: Tensor) -> Tensor:
    tokens = w[f"{site}.mm_tokens"]
    keys = tokens + (tokens @ w[f"{site}.mm.0.weight"].T) @ w[f"{site}.mm.1.weight"].T
    out = torch.empty_like(y)
    for n, row in enumerate(res):
        a = torch.tensor([max(0.0, float(row @ key)) for key in keys], dtype=torch.float64)
        out[n] = torch.exp(w[f"{site}.scale"]) * (y[n] + a.max() * (a @ tokens))
    return out


def answered(w: Weights, task: str, cls: Tensor) -> Tensor:
    """The head of a task on the pooled row of a text with its images."""
    head = HEADS[task]
    if task == "irtr":
        return linear(w, head, cls)
    return linear(w, f"{head}.3", gelu(norm(w, f"{head}.1", linear(w, f"{head}.0", cls), 1e-5)))


def distance(actual: np.ndarray | Tensor, expected: np.ndarray | Tensor) -> float:
    actual, expected = torch.as_tensor(actual).double(), torch.as_tensor(expected).double()
    assert actual.shape == expected.shape
    return float((actual - expected).norm() / expected.norm())
