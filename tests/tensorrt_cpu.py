"""TensorRT without a GPU, as the project's set-up installs it, for scripts that tests run in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A folder with lib/ (the libraries) and python/ (the package tensorrt).
_FOLDER = Path(os.environ.get("MEMVP_TENSORRT_CPU") or Path(__file__).parents[1] / ".venv" / "tensorrt-cpu")


def environment() -> dict[str, str] | None:
    """The environment in which Python imports that TensorRT as `tensorrt`; None where it is not installed."""
    lib, python = _FOLDER / "lib", _FOLDER / "python"
    if not (lib.is_dir() and (python / "tensorrt").is_dir()):
        return None
    return os.environ | {"LD_LIBRARY_PATH": str(lib), "PYTHONPATH": str(python)}


needs_tensorrt = pytest.mark.skipif(
    environment() is None, reason=f"no TensorRT without a GPU in {_FOLDER} (see tests/install_tensorrt_cpu.py)"
)


def run(script: Path, *arguments: object, timeout: float = 300) -> str:
    """Standard output of a Python script that may import tensorrt; its failure fails the test with what it said."""
    words = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{script.name} ended with {done.returncode}:\n{done.stderr[-4000:]}"
    return done.stdout
