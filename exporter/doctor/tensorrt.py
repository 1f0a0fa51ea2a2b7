"""TensorRT and TensorRT-RTX: imported, then made to build and run engines, with the plugin too where there is one."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ...plugins.loader import find_library
from ..child_process import ChildFailed, ask_module
from ..engines.targets import TARGETS
from ..errors import ToolError
from . import engine_trial, probes
from .check import Check, alone, pip_line

_EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "rtx"}
_USES = {
    "tensorrt": "it builds and runs engines where an NVIDIA GPU is",
    "tensorrt-rtx": "it builds engines for RTX PCs on any machine, and runs them there",
}
_BUILD_FIXES = {
    "tensorrt": "It needs an NVIDIA GPU, a driver of its CUDA version, and all its libraries",
    "tensorrt-rtx": "Install it again",
}
_CUDA_VERSIONS = ("cu11", "cu12", "cu13")
_INSTALLERS = ("pip", "uv")


def check_tensorrt() -> list[Check]:
    """TensorRT is tried as far as this machine allows."""
    return _check_target("tensorrt")


def check_tensorrt_rtx() -> list[Check]:
    """The same for TensorRT-RTX."""
    return _check_target("tensorrt-rtx")


def _check_target(target: str) -> list[Check]:
    module, extra = TARGETS[target].module, _EXTRAS[target]
    try:
        found = ask_module(probes.__name__, "tensorrt", module, target, timeout=engine_trial.TIMEOUT_S)
    except ChildFailed as failure:
        return [Check(module, "broken", str(failure), f"Install it again:  {pip_line(extra)}")]
    if not found["installed"]:
        return [Check(module, "missing", f"not installed: {_USES[target]}", pip_line(extra))]
    # Only after a child has found TensorRT: they need packages that may be missing here.
    from .trials import memory_lookup, two_nodes

    wheels = tuple(f"{module.replace('_', '-')}-{cuda}" for cuda in _CUDA_VERSIONS)
    fix = f"{_BUILD_FIXES[target]}:  {pip_line(extra)}"
    native = engine_trial.check_engine(module, target, two_nodes(), None, fix)
    checks = [
        Check(module, "ok", f"{found['version']}, {_origin(found)}"),
        *alone(f"{module} alone", wheels, extra),
        *_duplicates(module, found["libraries"], extra),
        *native,
    ]
    library = _plugin_library()
    if library and all(check.status != "broken" for check in native):
        fix = "memvp-export plugin build"
        checks += engine_trial.check_engine(f"plugin in {module}", target, memory_lookup(), library, fix)
    return checks


def _origin(found: Mapping[str, Any]) -> str:
    """Where the package and its main library come from."""
    folder = Path(found["folder"])
    owners = [d for d in metadata.distributions(path=[str(folder.parent)]) if d.name.startswith(folder.name)]
    wheel = next((d.name for d in owners if (d.read_text("INSTALLER") or "").strip() in _INSTALLERS), None)
    main = [
        Path(file) for file in found["libraries"] if Path(file).name.startswith(("libnvinfer.", "libtensorrt_rtx."))
    ]
    loaded = f", {main[0].name} in {main[0].parent}" if main else ""
    return f"{f'wheel {wheel}' if wheel else 'no wheel'} in {folder}{loaded}"


def _duplicates(module: str, libraries: list[str], extra: str) -> list[Check]:
    """Broken for each library that one process has loaded from several files: calls then reach any of them."""
    files: dict[str, list[str]] = {}
    for file in libraries:
        files.setdefault(Path(file).name.partition(".so")[0], []).append(file)
    fix = f"Take the others off LD_LIBRARY_PATH, or uninstall all and:  {pip_line(extra)}"
    return [
        Check(f"{module} loads {name} once", "broken", f"loaded together: {', '.join(several)}", fix)
        for name, several in files.items()
        if len(several) > 1
    ]


def _plugin_library() -> Path | None:
    try:
        return find_library()
    except ToolError:
        # check_plugin says what is wrong.
        return None
