"""A machine with TensorRT 8.5 and a GPU, which are stand-ins, and with an old Python if one is installed here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PYTHONS = ("python3.8", "python3.9", "python3.10")


def make_host(folder: Path) -> dict[str, str]:
    """The environment of that machine, whose libraries lie in `folder`; PYTHON is its Python."""
    compiler = shutil.which("cc") or shutil.which("gcc") or pytest.skip("no C compiler")
    source, library = HERE / "fake_cudart.c", folder / "libcudart.so.11.0"
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
    (folder / "tensorrt").mkdir()
    shutil.copy(HERE / "fake_tensorrt8.py", folder / "tensorrt" / "__init__.py")
    python = next((one for one in PYTHONS if _works(one)), sys.executable)
    paths = {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder), "PYTHON": python}
    return {**os.environ, **paths, "PYTHONDONTWRITEBYTECODE": "1"}


def program(folder: Path) -> Path:
    """A script that runs that machine's Python, and that says what the parser makes of a graph before it is built."""
    host = make_host(folder)
    script = folder / "python8"
    script.write_text(
        "#!/bin/sh\n"
        f'test "$3" != build || "{sys.executable}" "{HERE / "layers8.py"}" "$4"\n'
        f'PYTHONPATH="{folder}" LD_LIBRARY_PATH="{folder}" exec {host["PYTHON"]} "$@"\n'
    )
    script.chmod(0o755)
    return script


def _works(python: str) -> bool:
    return bool(shutil.which(python)) and not subprocess.run([python, "-c", ""], capture_output=True).returncode
