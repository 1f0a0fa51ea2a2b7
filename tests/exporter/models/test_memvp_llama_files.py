"""What the official files say, what of them counts, and which of them do not belong together."""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from memvp_export.examples.random_source import Sizes, adapter_shapes
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models.clip_tower import TowerConfig
from memvp_export.exporter.models.family import Model, load
from memvp_export.exporter.models.memvp_llama import Config
from memvp_export.exporter.models.reference import TorchReference
from torch import Tensor

Edit = Callable[[dict[str, Tensor]], object]
DEAD = (
    ("ViT.pt", "visual.transformer.resblocks.2.attn.in_proj_weight"),
    ("ViT.pt", "visual.transformer.resblocks.2.mlp.c_proj.bias"),
    ("ViT.pt", "visual.proj"),
    ("checkpoint-19.pth", "module.backbone.visual.transformer.resblocks.2.adapter_mlp.fc2.weight"),
    ("checkpoint-19.pth", "module.adapter_modality_embedding.weight"),
)
ALIVE = (
    ("ViT.pt", "visual.transformer.resblocks.1.attn.in_proj_weight"),
    ("ViT.pt", "visual.ln_post.bias"),
    ("checkpoint-19.pth", "module.backbone.visual.transformer.resblocks.0.adapter_mlp.fc1.weight"),
    ("checkpoint-19.pth", "module.backbone.visual.transformer.resblocks.1.adapter_mlp.fc2.weight"),
    ("checkpoint-19.pth", "module.adapter_proj.fc1.bias"),
)


@pytest.fixture
def copied(odd_source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(odd_source, tmp_path / "source"))


def change(file: Path, edit: Edit) -> None:
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(file, weights_only=True)
    edit(content.get("model", content))
    torch.save(content, file)


def rows(model: Model) -> np.ndarray:
    """The visual rows of one picture."""
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    inputs = {"pixel_values": pixels, "image_indicator": np.ones(1, np.float32)}
    return TorchReference(model.components, model.weights).run("vision", inputs)["visual_memory"]


def shuffled(tensor: Tensor) -> Tensor:
    return tensor.flatten()[torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(0))].view_as(tensor)


@pytest.mark.parametrize(("file", "name"), DEAD)
def test_dead_tensors_change_nothing(copied: Path, model: Model, file: str, name: str) -> None:
    change(copied / file, lambda tensors: tensors.update({name: shuffled(tensors[name])}))
    np.testing.assert_array_equal(rows(load(read_source(copied))), rows(model))


@pytest.mark.parametrize(("file", "name"), ALIVE)
def test_other_tensors_change_the_visual_rows(copied: Path, model: Model, file: str, name: str) -> None:
    change(copied / file, lambda tensors: tensors.update({name: shuffled(tensors[name])}))
    before, after = rows(model), rows(load(read_source(copied)))
    assert np.linalg.norm(after - before) > 1e-3 * np.linalg.norm(before)


def test_sizes_come_from_the_files(model: Model) -> None:
    assert model.config == Config(
        tower=TowerConfig(width=64, blocks=3, patch=14, grid=16, adapter_dim=12, adapter_scale=0.1),
        dim=96,
        layers=3,
        heads=6,
        ffn_dim=256,
        vocab=150,
        norm_eps=1e-6,
        rope_theta=10000.0,
        projector_dim=24,
        memory_rows=290,
        adapter_scale=0.1,
        visual_scale=0.01,
        max_sequence=512,
        max_batch=64,
    )
    assert model.precision == "fp16"
    assert model.memory["visual_rows"] == 256 and model.memory["table_rows"] == 290
    assert set(model.weights) == {name for part in model.components for name in part.weights}


def test_options_reach_the_config(copied: Path, model: Model) -> None:
    toml = copied / "model.toml"
    toml.write_text(toml.read_text() + "visual_scale = 0.02\nadapter_scale = 0.3\nclip_adapter_scale = 0.0\n")
    changed = load(read_source(copied))
    assert changed.config.adapter_scale == 0.3 and changed.config.tower.adapter_scale == 0
    assert changed.memory["lambda"] == 0.02
    assert not np.allclose(rows(changed), 2 * rows(model))


def test_lambda_scales_the_visual_rows(copied: Path, model: Model) -> None:
    toml = copied / "model.toml"
    toml.write_text(toml.read_text() + "visual_scale = 0.02\n")
    np.testing.assert_array_equal(rows(load(read_source(copied))), 2 * rows(model))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (Sizes(dim=192), "hidden width of 192; the LLaMA base has 96"),
        (Sizes(tower_width=128), "feature width of 128; the CLIP tower has 64"),
        (Sizes(memory_rows=200), "256 visual rows, the adapter's tables hold 200"),
    ],
)
def test_an_adapter_of_another_model_is_refused(copied: Path, sizes: Sizes, message: str) -> None:
    other = {f"module.{name}": torch.zeros(shape) for name, shape in adapter_shapes(sizes).items()}
    change(copied / "checkpoint-19.pth", lambda tensors: tensors.update(other))
    with pytest.raises(InputError, match=message):
        load(read_source(copied))


def test_a_missing_tensor_is_named(copied: Path) -> None:
    change(copied / "ViT.pt", lambda tensors: tensors.pop("visual.ln_pre.bias"))
    with pytest.raises(InputError, match=r"visual\.ln_pre\.bias"):
        load(read_source(copied))
