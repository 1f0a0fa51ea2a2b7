"""The set-up of TensorRT without a GPU: done once, and no reason to stop where it cannot be had, except in CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import tensorrt_cpu

SCRIPT = Path(__file__).with_name("install_tensorrt_cpu.py")


def install(target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    names = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run([sys.executable, SCRIPT, target], env=names | environment, capture_output=True, text=True)


@pytest.mark.parametrize(("environment", "code"), [({}, 0), ({"CI": "true"}, 1)])
def test_what_cannot_be_downloaded_is_said(environment: dict[str, str], code: int, tmp_path: Path) -> None:
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    done = install(tmp_path / "rig", **nowhere, **environment)
    assert done.returncode == code
    assert "is not installed: pip could not download onnxruntime-ep-nv-tensorrt-rtx" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_complete_one_is_left_alone(tmp_path: Path) -> None:
    if tensorrt_cpu.environment() is None:
        pytest.skip(str(tensorrt_cpu.needs_tensorrt.kwargs["reason"]))
    folder = Path(os.environ.get("MEMVP_TENSORRT_CPU") or SCRIPT.parents[1] / ".venv" / "tensorrt-cpu")
    before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
    done = install(folder, PIP_NO_INDEX="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == before
    said = subprocess.run(
        ["sh", "-c", f'. "{folder}/activate" && "{sys.executable}" -c "import tensorrt; print(tensorrt.__version__)"'],
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == "11.4.0.106", said.stderr
