"""Random models of odd sizes in the official formats, exported once a run and shared by the tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests must not reach for a hub, and one test process per core needs no more threads than that.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def odd_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random MemVP-LLaMA source of odd sizes: d=96, 3 layers, p=290, a vocabulary of 150."""
    from memvp_export.examples.random_source import PRESETS, write_source

    folder = tmp_path_factory.mktemp("odd-source")
    write_source(folder, PRESETS["odd"])
    return folder


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory, odd_source: Path) -> Callable[[str], Path]:
    """The odd source exported in a precision; made when first asked for. Tests must not change it: copy it."""
    made: dict[str, Path] = {}

    def make(precision: str) -> Path:
        if precision not in made:
            from memvp_export import export_onnx, read_source

            made[precision] = tmp_path_factory.mktemp("bundles") / precision
            export_onnx(read_source(odd_source), made[precision], precision)
        return made[precision]

    return make
