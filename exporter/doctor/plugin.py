"""The plugin library: loaded, described, and its code held against the GPU that is here."""

from pathlib import Path

from ...plugins.build import build_id
from ...plugins.loader import PluginInfo, find_library
from ..child_process import ChildFailed, ask_module
from ..errors import InputError
from . import probes
from .check import Check
from .gpu import first_gpu

_BUILD = "memvp-export plugin build"


def check_plugin() -> list[Check]:
    """The library loads and says what it holds; this GPU finds code in it. TensorRT's own checks build with it."""
    try:
        library = find_library()
    except InputError as error:
        return [Check("plugin", "broken", str(error), f"Unset the variable, or:  {_BUILD}")]
    if library is None:
        detail = "not built: engines are built with native lowering"
        return [Check("plugin", "missing", detail, f"Where nvcc is, and only if engines shall use it:  {_BUILD}")]
    try:
        said = ask_module(probes.__name__, "plugin", str(library))
        info = PluginInfo(**{**said, "path": Path(said["path"])})
    except (ChildFailed, KeyError, TypeError) as failure:
        return [Check("plugin", "broken", f"{library}: {failure}", _BUILD)]
    current = info.build_id == build_id(info.headers_version)
    fix = "" if current else f"For engines built from now on:  {_BUILD}"
    return [Check("plugin", "ok", _described(info, current), fix), *_coverage(info)]


def _described(info: PluginInfo, current: bool) -> str:
    stale = "" if current else ", of other sources than those installed here"
    return (
        f"{', '.join(info.operators)} in {', '.join(info.types)} for sm_{' '.join(info.archs)} and PTX "
        f"{' '.join(info.ptx)}; build {info.build_id}{stale}, TensorRT {info.headers_version} headers; {info.path}"
    )


def _coverage(info: PluginInfo) -> list[Check]:
    try:
        gpu = first_gpu()["gpu"]
    except ChildFailed:
        # check_cuda says what is wrong.
        return []
    if gpu is None:
        return []
    name, detail = "plugin serves this GPU", f"{gpu['name']}, sm_{gpu['sm']}"
    if info.runs_on(gpu["sm"]):
        return [Check(name, "ok", detail)]
    detail += f": the library has code for {' '.join(info.archs)} and PTX for {' '.join(info.ptx)}"
    return [Check(name, "broken", detail, f"{_BUILD} --arch {gpu['sm']}")]
