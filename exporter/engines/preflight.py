"""May an engine be loaded here? TensorRT has no check of its own: it answers null, an error in a log, or a crash.

Everything is decided on data, so that other runtimes can be tested on the same cases: an engine's entry in the
manifest, and what this machine has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import EnvironmentLack, InputError

_NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_BUILD = "build it here with `memvp-export trt`"


@dataclass(frozen=True)
class Gpu:
    """A usable GPU: its compute capability as "90", the CUDA versions that its driver supports and that the runtime
    library has, and bytes of its memory, in all and free."""

    name: str
    sm: str
    driver: str
    runtime: str
    memory: int
    free: int


@dataclass(frozen=True)
class InstalledPlugin:
    """The plugin library of this machine: what it was built from, its digest, its operators, and whether it has code
    for the GPU."""

    build_id: str
    sha256: str
    operators: list[str]
    runs_here: bool = True


@dataclass(frozen=True)
class Environment:
    """What this machine has. tensorrt is a version, None where it is not installed; without a gpu, why_no_gpu says
    what was tried. plugin is None where no library is installed, or where none can be used: then why_no_plugin says
    why; what it is was asked only where an engine has a plugin. activations are the bytes of the GPU's memory that are
    held for those already: engines that run in turn share them."""

    tensorrt: str | None
    flavor: str
    gpu: Gpu | None
    why_no_gpu: str = ""
    plugin: InstalledPlugin | None = None
    why_no_plugin: str = ""
    activations: int = 0


@dataclass(frozen=True)
class EngineFile:
    """An engine's file: bytes, its SHA-256 and the one that the manifest lists; equal where it was not read yet.

    known_code: whether all host code in it is the installed plugin library's; None where it was not read yet.
    """

    size: int
    sha256: str = ""
    listed: str = ""
    known_code: bool | None = None


def problems(entry: Mapping[str, Any], here: Environment, file: EngineFile, trusted: bool = False) -> list[str]:
    """Why the engine cannot be loaded: what it was built with, what is here, and the fix; empty where it can.

    entry is an element of the manifest's `engines`; its activation, in bytes, is known where it was built on a GPU.
    trusted allows host code that is not the installed plugin's.
    """
    found = [
        _file_problem(file),
        _tensorrt_problem(entry, here),
        _gpu_problem(entry, here),
        _plugin_problem(entry, here, file, trusted),
        _memory_problem(entry, here, file),
    ]
    return [problem for problem in found if problem]


def require(entry: Mapping[str, Any], here: Environment, file: EngineFile, trusted: bool = False) -> None:
    """Raise EnvironmentLack with all problems of an engine, InputError where its bytes are not those listed."""
    if damage := _file_problem(file):
        raise InputError(f"{entry['file']}: {damage}")
    if found := problems(entry, here, file, trusted):
        raise EnvironmentLack(refusal(entry, found))


def refusal(entry: Mapping[str, Any], found: list[str]) -> str:
    """The message for an engine with these problems."""
    return f"{entry['file']} cannot be loaded here:" + "".join(f"\n- {problem}" for problem in found)


def _file_problem(file: EngineFile) -> str | None:
    if file.sha256 == file.listed:
        return None
    return "the bundle is edited: the engine's bytes are not those of its manifest. Build or copy it again."


def _tensorrt_problem(entry: Mapping[str, Any], here: Environment) -> str | None:
    target, flavor, version = entry.get("target", entry["flavor"]), entry["flavor"], entry["tensorrt"]
    wanted = tensorrt_name(target, flavor, version)
    # A pairing is no package, and its version is not that of the libraries.
    install = "" if _paired(target, flavor) else f"install it with  pip install '{_PACKAGES[flavor]}=={version}'"
    if here.tensorrt is None:
        return f"it was built with {wanted}, and there is none here that can be loaded: {install or _BUILD}"
    if here.flavor != flavor:
        found = tensorrt_name(target, here.flavor, here.tensorrt)
    # An engine is bound to the exact build of the library.
    elif here.tensorrt != version:
        found = here.tensorrt
    else:
        return None
    return f"it was built with {wanted}, here is {found}: {f'{install}, or ' if install else ''}{_BUILD}"


def _paired(target: str, flavor: str) -> bool:
    """Whether a module of TensorRT runs on the libraries of TensorRT-RTX, as without a GPU."""
    return flavor == "tensorrt-rtx" != target


def tensorrt_name(target: str, flavor: str, version: str) -> str:
    """A TensorRT in words: the target, whose libraries are of `flavor`, and the version that its module says."""
    if _paired(target, flavor):
        return f"{_NAMES['tensorrt']} {version} over the libraries of {_NAMES[flavor]}"
    return f"{_NAMES[flavor]} {version}"


def _gpu_problem(entry: Mapping[str, Any], here: Environment) -> str | None:
    if here.gpu is None:
        return f"no GPU can be used here: {here.why_no_gpu}"
    if _major(here.gpu.driver) < _major(here.gpu.runtime):
        return (
            f"the driver of {here.gpu.name} supports CUDA {here.gpu.driver}, the CUDA runtime here is "
            f"{here.gpu.runtime}: install a newer driver, or TensorRT for CUDA {_major(here.gpu.driver)}"
        )
    built = entry["gpu"]
    # Engines that are made without a GPU are finished on the one that runs them.
    if built is not None and built["sm"] != here.gpu.sm:
        return (
            f"it was built for compute capability {_capability(built['sm'])} ({built['name']}), {here.gpu.name} has "
            f"{_capability(here.gpu.sm)}: {_BUILD}"
        )
    return None


def _plugin_problem(entry: Mapping[str, Any], here: Environment, file: EngineFile, trusted: bool) -> str | None:
    wanted, installed = entry["plugin"], here.plugin
    if wanted is None:
        return None
    if wanted["embedded"]:
        return None if trusted else _host_code_problem(wanted, here, file)
    rebuild = f"`memvp-export plugin build` with the version of memvp-export that made the engine, or {_BUILD}"
    if installed is None:
        why = f"the one here cannot be used ({here.why_no_plugin})" if here.why_no_plugin else "none is installed"
        return f"it needs the plugin library of build {wanted['build_id']}, and {why}: `memvp-export plugin build`"
    if installed.build_id != wanted["build_id"]:
        return f"it needs the plugin library of build {wanted['build_id']}, here is {installed.build_id}: {rebuild}"
    if missing := sorted(set(wanted["operators"]) - set(installed.operators)):
        return f"it needs the operators {', '.join(missing)}, which the plugin library here lacks: {rebuild}"
    if not installed.runs_here:
        return "it needs the plugin library, and the one here has no code for this GPU: `memvp-export plugin build`"
    return None


def _host_code_problem(wanted: Mapping[str, Any], here: Environment, file: EngineFile) -> str | None:
    """What the manifest says of the code that an engine brings is a claim of whoever made it: it can only rule the
    engine out, before the engine's own bytes are looked at."""
    installed = here.plugin
    claimed = installed is not None and installed.sha256 == wanted["sha256"]
    if file.known_code if file.known_code is not None else claimed:
        return None
    if claimed:
        beside = "and it is not, or not only, the one installed here, whatever the manifest says"
    else:
        beside = f"of build {wanted['build_id']}, which is not the one installed here ({_build(here)})"
    return (
        f"it carries a plugin library, code for this machine's processor, {beside}: --trust-bundle runs it where you "
        "trust who made the bundle"
    )


def _build(here: Environment) -> str:
    return here.plugin.build_id if here.plugin else here.why_no_plugin or "none"


def _memory_problem(entry: Mapping[str, Any], here: Environment, file: EngineFile) -> str | None:
    further = max(entry.get("activation", 0) - here.activations, 0)
    if here.gpu is None or file.size + further <= here.gpu.free:
        return None
    beside = f" and {_mib(further)} {'more ' if here.activations else ''}for activations" if further else ""
    return (
        f"it needs {_mib(file.size)} for weights{beside}, {here.gpu.name} has {_mib(here.gpu.free)} free of "
        f"{_mib(here.gpu.memory)}: end other programs, or build it in a smaller precision or for smaller shapes"
    )


def _capability(sm: str) -> str:
    return f"{sm[:-1]}.{sm[-1]}"


def _major(version: str) -> int:
    return int(version.split(".")[0])


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
