"""CUDA's compiler: where it is, and which GPUs it compiles for."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..exporter.errors import EnvironmentLack, InputError

# What the library is built for where nothing else is asked, as far as the compiler knows them.
ARCHS = ("75", "80", "86", "87", "89", "90", "100", "110", "120")
_TOOLKIT = Path("/usr/local/cuda")


@dataclass(frozen=True)
class Nvcc:
    """path: the program. version: 13.0. archs: the compute capabilities it compiles for, such as 90."""

    path: Path
    version: str
    archs: tuple[str, ...]


def find_nvcc(given: str | None = None) -> Nvcc:
    """The nvcc that is `given` (a path or a name on PATH), or the first found: on PATH, in CUDA_HOME, CUDA_PATH or
    /usr/local/cuda, among pip's packages.

    Raises InputError where `given` is none, EnvironmentLack where there is none or it does not work.
    """
    if given is not None:
        program = shutil.which(given)
        if not program:
            raise InputError(f"--nvcc {given!r} is not a program.")
        return _ask(Path(program))
    program = next((found for folder in _places() if (found := shutil.which("nvcc", path=folder))), None)
    if not program:
        raise EnvironmentLack(
            "nvcc, CUDA's compiler, was not found on PATH, in CUDA_HOME, in /usr/local/cuda or among pip's packages. "
            "Install the CUDA toolkit, or:  pip install nvidia-cuda-nvcc nvidia-cuda-cccl"
        )
    return _ask(Path(program))


def choose_archs(nvcc: Nvcc, asked: Sequence[str] | None = None) -> list[str]:
    """The compute capabilities to compile for, ascending: all of `asked`, or of ARCHS what nvcc can.

    Raises InputError where one that was asked for is none, EnvironmentLack where nvcc is too old or too new for it.
    """
    if not asked:
        known = [arch for arch in ARCHS if arch in nvcc.archs]
        if not known:
            raise EnvironmentLack(
                f"nvcc {nvcc.version} ({nvcc.path}) compiles for none of {' '.join(ARCHS)}: use --arch."
            )
        return known
    for arch in asked:
        if not arch.isdecimal():
            raise InputError(f"--arch {arch} is not a compute capability without its dot, such as 90.")
        if arch not in nvcc.archs:
            raise EnvironmentLack(
                f"nvcc {nvcc.version} ({nvcc.path}) does not compile for {arch}; it does for {' '.join(nvcc.archs)}. "
                "Use another CUDA toolkit with --nvcc, or other --arch."
            )
    return sorted(set(asked), key=int)


def _places() -> Iterator[str]:
    yield os.environ.get("PATH", "")
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if root := os.environ.get(variable):
            yield str(Path(root) / "bin")
    yield str(_TOOLKIT / "bin")
    yield from pip_places()


def pip_places() -> list[str]:
    """The folders of programs in the packages that pip installs under `nvidia`."""
    package = importlib.util.find_spec("nvidia")
    roots = package.submodule_search_locations if package else None
    return [str(folder) for root in roots or () for folder in sorted(Path(root).glob("*/bin"))]


def _ask(path: Path) -> Nvcc:
    release = re.search(r"release (\d+\.\d+)", _output(path, "--version"))
    archs = re.findall(r"compute_(\d+)\b", _output(path, "--list-gpu-arch"))
    if not release or not archs:
        raise EnvironmentLack(f"{path} does not answer as CUDA's nvcc does: name another one with --nvcc.")
    return Nvcc(path, release[1], tuple(sorted(set(archs), key=int)))


def _output(path: Path, option: str) -> str:
    try:
        return subprocess.run([path, option], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentLack(f"{path} cannot be run ({error}): name another nvcc with --nvcc.") from error
