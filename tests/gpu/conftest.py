"""What the tests on a GPU share. They are skipped, with the reason, where there is none."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest
from memvp_export.exporter.errors import EnvironmentLack
from memvp_export.plugins.kernels import interface
from memvp_export.plugins.nvcc import find_nvcc


def _lack() -> str | None:
    """Why these tests cannot run here."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them where they cannot run."""
    lack = _lack()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("gpu")
            if lack:
                item.add_marker(pytest.mark.skip(reason=lack))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels: the library that MEMVP_PLUGIN names, else compiled for the GPU that is here."""
    import torch

    if named := os.environ.get("MEMVP_PLUGIN"):
        return interface.open_library(Path(named))
    try:
        nvcc = find_nvcc().path
    except EnvironmentLack as lack:
        pytest.skip(f"MEMVP_PLUGIN names no library of the kernels: {lack}")
    made = tmp_path_factory.mktemp("kernels") / "libmemvp_kernels.so"
    major, minor = torch.cuda.get_device_capability()
    target = f"-gencode=arch=compute_{major}{minor},code=sm_{major}{minor}"
    command = [nvcc, "-O3", "-std=c++17", "-shared", "-Xcompiler", "-fPIC", target, "--threads", "0"]
    subprocess.run([*command, *interface.SOURCES, "-o", made], check=True)
    return interface.open_library(made)
