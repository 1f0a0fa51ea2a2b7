"""What random sources of APT's two models have in common: Lightning file, heads, prompts, labels."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import torch

from .random_source import random_noise

TASKS = ("vqa", "nlvr2", "irtr")
CHECKPOINT = "epoch=9-step=99.ckpt"
Shapes = dict[str, tuple[int, ...]]


def save_lightning(path: Path, state: dict[str, torch.Tensor], config: dict[str, object]) -> None:
    """A file as Lightning 1.1 leaves it: `callbacks` is keyed by a class of Lightning itself."""
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint")
    modules = {name: ModuleType(name) for name in names}
    callback = type("ModelCheckpoint", (), {"__module__": names[-1]})
    vars(modules[names[-1]])["ModelCheckpoint"] = callback
    content = {
        "epoch": 9,
        "global_step": 99,
        "pytorch-lightning_version": "1.1.4",
        "callbacks": {callback: {"best_model_score": torch.tensor(0.7), "best_model_path": "epoch=9.ckpt"}},
        "optimizer_states": [],
        "lr_schedulers": [],
        "state_dict": state,
        "hparams_name": "kwargs",
        "hyper_parameters": {"config": {"exp_name": "finetune", "max_image_len": -1, **config}, "trainable": ["APT"]},
    }
    # Lightning itself need not be here.
    with patch.dict(sys.modules, modules):
        torch.save(content, path)


def site_shapes(site: str, rows: int, rank: int, width: int, scalar: str) -> Shapes:
    """The trained tensors of a site (spec 3). scalar is the name of its factor: "scale", or "weight" as in the `_draw`
    modules of the official code."""
    return {
        f"{site}.APT.mm_tokens": (rows, width),
        f"{site}.APT.mm.0.weight": (rank, width),
        f"{site}.APT.mm.1.weight": (width, rank),
        f"{site}.APT.{scalar}": (1,),
    }


def head_sizes(task: str, width: int, hidden: int, classes: int) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """The linear layers and norms of the task's head on pooled rows of this width (spec 4.3), for `with_biases`; of
    irtr, the head it was started from too."""
    if task == "irtr":
        return {"rank_output": (1, width), "itm_score.fc": (2, width)}, {}
    head, width, classes = ("vqa_classifier", width, classes) if task == "vqa" else ("nlvr2_classifier", 2 * width, 2)
    return {f"{head}.0": (hidden, width), f"{head}.3": (classes, hidden)}, {f"{head}.1": hidden}


def with_biases(linears: Mapping[str, tuple[int, int]], norms: Mapping[str, int]) -> Shapes:
    """Weights and biases of linear layers and norms."""
    shapes: Shapes = {}
    for name, (rows, columns) in linears.items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def random_state(shapes: Shapes, seed: int) -> dict[str, torch.Tensor]:
    """Tensors of these shapes, so scaled that text, image and prompts all move the answer."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _values(name, shape, generator) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = random_noise(name, shape, generator)
    if name.endswith(("APT.scale", "APT.weight")):
        return 0.3 + 0.1 * noise
    if name.endswith("mm_tokens"):
        # A row's score is then of order one half, and the lookup about as long as the attention it is added to.
        return 0.5 * noise / shape[-1] ** 0.5
    if len(shape) < 2:
        return 1 + 0.1 * noise if name.endswith(".weight") else 0.1 * noise
    if "embed" in name and not name.endswith("proj.weight"):
        return noise
    return noise / (noise[0].numel() ** 0.5)


def write_toml(folder: Path, family: str, task: str, tokenizer: str, classes: int, options: str) -> Path:
    """model.toml beside the checkpoint, and for vqa the labels; returns its path."""
    labels = ""
    if task == "vqa":
        (folder / "answers.json").write_text(json.dumps({"id2label": {i: f"answer {i}" for i in range(classes)}}))
        labels = 'labels = "answers.json"\n'
    toml = folder / "model.toml"
    toml.write_text(
        f'family = "{family}"\ntask = "{task}"\n\n[files]\ncheckpoint = "{CHECKPOINT}"\n'
        f'tokenizer = "{tokenizer}"\n{labels}\n[options]\n{options}max_batch = 8\n'
    )
    return toml
