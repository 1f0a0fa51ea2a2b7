"""The kernels compile for every GPU that the project names, without a warning, a spill or a stack frame."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from memvp_export.plugins.kernels import interface

# Kernels by their C++ names: of two products in each form, the sum of splits, the row pass in its forms, and its end.
KERNELS = {
    "generalScores": 3,
    "generalValues": 3,
    "activateSums": 3,
    "tensorCoreScores": 2,
    "tensorCoreValues": 2,
    "rowPass": 30,
    "finish": 3,
}


def compiler() -> str:
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("nvcc is not on PATH")
    return found


def said_by_ptxas(architectures: tuple[int, ...], folder: Path, cache: pytest.Cache) -> str:
    """What ptxas says of all kernels; kept from run to run until a source or nvcc changes."""
    nvcc = compiler()
    version = subprocess.run([nvcc, "--version"], check=True, capture_output=True).stdout
    headers = sorted(interface.SOURCES[0].parent.glob("*.*h"))
    digest = hashlib.sha256(version + b"".join(path.read_bytes() for path in [*interface.SOURCES, *headers]))
    key = f"memvp-kernels/{architectures}-{digest.hexdigest()}"
    said = cache.get(key, None)
    if said is None:
        flags = ["-O3", "-std=c++17", "-Xcompiler", "-fPIC,-Wall,-Wextra", "-Xptxas", "-v", "--threads", "2"]
        targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in architectures]
        done = subprocess.run(
            [nvcc, *flags, *targets, "-c", *interface.SOURCES], cwd=folder, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        said = done.stderr
        cache.set(key, said)
    return said


@pytest.mark.parametrize(
    "architectures", [(80, 90), pytest.param((75, 86, 87, 89, 100, 110, 120), marks=pytest.mark.slow)], ids=str
)
def test_no_kernel_spills(architectures, tmp_path, pytestconfig) -> None:
    said = said_by_ptxas(architectures, tmp_path, pytestconfig.cache)
    assert "warning" not in said
    names = re.findall(r"Compiling entry function '(\w+)'", said)
    counts = {kernel: sum(f"{len(kernel) + 6}{kernel}Kernel" in name for name in names) for kernel in KERNELS}
    assert counts == {kernel: count * len(architectures) for kernel, count in KERNELS.items()}
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(frames) >= len(names) and set(frames) == {("0", "0", "0")}


@pytest.mark.slow
def test_the_newest_ptx_compiles(tmp_path) -> None:
    target = "-gencode=arch=compute_120,code=compute_120"
    subprocess.run(
        [compiler(), "-O3", "-std=c++17", target, "-c", *interface.SOURCES], cwd=tmp_path, check=True, timeout=600
    )
