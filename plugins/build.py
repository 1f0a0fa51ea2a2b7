"""Compiles the plugin library: the kernels, and the adapter for the TensorRT whose headers are there."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..exporter.bundle import check_no_file_of_bundle
from ..exporter.disk import require_writable, work_folder
from ..exporter.errors import EnvironmentLack, InputError
from ..exporter.progress import Progress
from ..exporter.whole_file import whole_file
from .headers import Headers, find_headers
from .loader import PluginInfo, built_library, cache_folder, library_info
from .nvcc import Nvcc, choose_archs, find_nvcc

_ROOT = Path(__file__).parent
_EXPORTS = _ROOT / "tensorrt" / "exports.map"
_DIGESTED = ("kernels/*.cu", "kernels/*.cuh", "kernels/*.h", "tensorrt/*.cpp", "tensorrt/*.h", "tensorrt/*.map")
_OPTIONS = ("-std=c++17", "-O3")
_WARNINGS = "-Wall,-Wextra,-fPIC"
# The kernels' C functions carry no mark: of their objects the export map alone decides what is seen.
_HIDDEN = f"{_WARNINGS},-fvisibility=hidden"
_LINKER = f"--version-script={_EXPORTS},-Bsymbolic,-z,relro,-z,now,--no-undefined"
_SHOWN_ERRORS = 8
_ERROR_WORDS = ("error", "fatal", "undefined reference")


@dataclass(frozen=True)
class BuildPlan:
    """What a build takes and makes. archs: compute capabilities; GPUs after the last one compile its PTX."""

    output: Path
    nvcc: Nvcc
    headers: Headers
    archs: tuple[str, ...]

    @property
    def build_id(self) -> str:
        """16 hex digits over the sources, the options and the headers' version.

        GPUs are left out, so that a library for more of them runs the same engines.
        """
        return build_id(self.headers.version)


def plan_build(
    output: Path | None = None,
    headers: Path | None = None,
    archs: Sequence[str] | None = None,
    nvcc: str | None = None,
) -> BuildPlan:
    """Find what the build needs. None stands for the cache's library, and for what is found or supported.

    Raises InputError or EnvironmentLack, see find_nvcc, choose_archs and find_headers; nothing is written.
    """
    if sys.platform != "linux":
        raise EnvironmentLack("`plugin build` works on Linux; elsewhere build plugins/CMakeLists.txt with CMake.")
    output = output or built_library()
    if output.is_dir():
        raise InputError(f"{output} is a folder; name a file.")
    check_no_file_of_bundle(output)
    if output.is_file() and not _may_be_library(output):
        raise InputError(f"{output} is no library, and would be destroyed. Name another.")
    require_writable(output.parent)
    compiler = find_nvcc(nvcc)
    chosen = choose_archs(compiler, archs)
    found = find_headers(headers)
    if not (os.environ.get("NVCC_CCBIN") or shutil.which("g++")):
        raise EnvironmentLack("nvcc needs a C++ compiler, and there is no g++ on PATH. Install it (package g++).")
    return BuildPlan(output, compiler, found, tuple(chosen))


def _may_be_library(path: Path) -> bool:
    """Whether a file is a library, whole or not, or is empty."""
    with path.open("rb") as file:
        return file.read(4) in (b"", b"\x7fELF")


def build_plugin(
    output: Path | None = None,
    *,
    headers: Path | None = None,
    archs: Sequence[str] | None = None,
    nvcc: str | None = None,
    progress: Progress | None = None,
) -> PluginInfo:
    """Compile and link the library to `output` (default: where find_library looks); parts come from the cache.

    Raises what plan_build raises, and EnvironmentLack with the compiler's first errors; output is then as it was.
    """
    plan = plan_build(output, headers, archs, nvcc)
    progress = progress or Progress()
    progress.note(
        f"nvcc {plan.nvcc.version} ({plan.nvcc.path}), headers of TensorRT {plan.headers.version} "
        f"({plan.headers.folder}), compute capabilities {' '.join(plan.archs)}"
    )
    with _scratch(plan.output) as scratch:
        objects = [_object(plan, source, scratch, progress) for source in sources()]
        with progress.stage("link"):
            linked = scratch / "linked.so"
            options = ["-shared", "-cudart", "static", "-Xlinker", _LINKER]
            _run([str(plan.nvcc.path), "-o", str(linked), *map(str, objects), *options], scratch)
            with whole_file(plan.output) as file:
                file.write(linked.read_bytes())
    return library_info(plan.output)


def sources() -> list[Path]:
    """The files to compile, kernels first."""
    return sorted(_ROOT.glob("kernels/*.cu")) + sorted(_ROOT.glob("tensorrt/*.cpp"))


def build_id(headers_version: str) -> str:
    """See BuildPlan. plugins/CMakeLists.txt computes the same."""
    files = [file for pattern in _DIGESTED for file in sorted(_ROOT.glob(pattern))]
    lines = [f"{file.relative_to(_ROOT).as_posix()} {_digest(file.read_bytes())}\n" for file in files]
    lines += [f"options {' '.join(_OPTIONS)}\n", f"tensorrt {headers_version}\n"]
    return _digest("".join(lines).encode())[:16]


def _object(plan: BuildPlan, source: Path, scratch: Path, progress: Progress) -> Path:
    """The compiled source, from the cache where nothing that goes into it has changed."""
    options = _compile_options(plan, source)
    own_headers = sorted(_ROOT.glob("kernels/*.*h")) + sorted(_ROOT.glob("tensorrt/*.h"))
    contents = [_digest(file.read_bytes()) for file in (source, *own_headers)]
    told = [plan.nvcc.version, plan.headers.version if source.suffix == ".cpp" else "", *options, *contents]
    kept = cache_folder() / "objects" / f"{source.stem}-{_digest(json.dumps(told).encode())[:32]}.o"
    if not kept.is_file():
        with progress.stage(f"compile {source.name}"):
            made = scratch / f"{source.stem}.o"
            system = ["-isystem", str(plan.headers.folder)] if source.suffix == ".cpp" else []
            _run([str(plan.nvcc.path), "-c", str(source), "-o", str(made), *options, *system], scratch)
            with whole_file(kept) as file:
                file.write(made.read_bytes())
    return kept


def _compile_options(plan: BuildPlan, source: Path) -> list[str]:
    if source.suffix == ".cu":
        # Compressed, code for nine GPUs takes a fourth of the bytes, in every engine that carries the library too.
        return [*_OPTIONS, "--threads", "0", "-Xfatbin", "-compress-all", "-Xcompiler", _WARNINGS, *_code(plan.archs)]
    options = [*_OPTIONS, "-Xcompiler", _HIDDEN]
    if source.stem == "info":
        defined = {"BUILD_ID": plan.build_id, "ARCHS": " ".join(plan.archs), "PTX": plan.archs[-1]}
        options += [f'-DMEMVP_{name}="{value}"' for name, value in defined.items()]
    return options


def _code(archs: Sequence[str]) -> Iterator[str]:
    for arch in archs:
        yield from ("-gencode", f"arch=compute_{arch},code=sm_{arch}")
    yield from ("-gencode", f"arch=compute_{archs[-1]},code=compute_{archs[-1]}")


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    output = output.resolve()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with work_folder(output) as folder:
            yield folder
    except OSError as error:
        raise EnvironmentLack(f"{output} cannot be written: {error.strerror}.") from error


def _run(command: list[str], scratch: Path) -> None:
    # What the compiler leaves when it is killed goes with the folder.
    environment = os.environ | {"TMPDIR": str(scratch)}
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if result.returncode:
        lines = (result.stderr + result.stdout).splitlines()
        errors = [line for line in lines if any(word in line for word in _ERROR_WORDS)] or lines
        raise EnvironmentLack(
            "\n".join(
                ["the plugin did not compile:"]
                + [f"  {line}" for line in errors[:_SHOWN_ERRORS]]
                + [f"The command was:  {' '.join(command)}"]
            )
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
