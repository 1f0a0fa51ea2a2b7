"""The odd source: its official files read with plain torch, and the model that the exporter reads from them."""

import argparse
from pathlib import Path

import pytest
import torch
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.models.family import Model, load
from memvp_export.exporter.models.reference import TorchReference
from torch import Tensor


@pytest.fixture(scope="session")
def official(odd_source: Path) -> dict[str, Tensor]:
    """Every tensor of the official files under its official name (Meta's, OpenAI's, MemVP's), in float64."""
    tensors = torch.load(odd_source / "weights" / "base" / "consolidated.00.pth", weights_only=True)
    tensors |= torch.load(odd_source / "ViT.pt", weights_only=True)
    with torch.serialization.safe_globals([argparse.Namespace]):
        adapter = torch.load(odd_source / "checkpoint-19.pth", weights_only=True)["model"]
    tensors |= {name.removeprefix("module."): tensor for name, tensor in adapter.items()}
    return {name: tensor.double() for name, tensor in tensors.items()}


@pytest.fixture(scope="session")
def model(odd_source: Path) -> Model:
    return load(read_source(odd_source))


@pytest.fixture(scope="session")
def reference(model: Model) -> TorchReference:
    return TorchReference(model.components, model.weights)
