"""A small bundle and questions about noise to calibrate it on."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from memvp_export.examples import random_diffusion
from memvp_export.exporter.data import Request
from PIL import Image

# The smallest U-Net with attention, of the kind of Stable Diffusion 2.
DIFFUSION = replace(random_diffusion.PRESETS["second"], text_layers=1, attended=0, levels=1, vae_levels=1)


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Twenty questions of several lengths, each with an image of its own."""
    folder = tmp_path_factory.mktemp("noise")
    generator = np.random.default_rng(0)
    made = []
    for number in range(20):
        path = folder / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
        made.append(Request(str(number), "what is it? " + "so " * (number % 5), path))
    return made


@pytest.fixture
def bundle(bundle_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A float32 bundle that a test may change."""
    return Path(shutil.copytree(bundle_of("fp32"), tmp_path / "bundle"))
