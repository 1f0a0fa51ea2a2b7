"""TensorRT, the GPU and the plugin of this process, opened when they are first needed."""

from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ...plugins.loader import PluginInfo, find_library, library_info
from ..errors import ToolError
from .child import tool_error
from .cuda_runtime import Cuda
from .engine_error import EngineError
from .host_code import holds_only
from .preflight import Environment, Gpu, InstalledPlugin
from .targets import TARGETS
from .tensorrt_module import flavor, import_tensorrt, load_engine, load_plugin, logger


class Runtime:
    """What the engines of every target run on. Raises EnvironmentLack where that is not here."""

    @cached_property
    def cuda(self) -> Cuda:
        """The first GPU."""
        try:
            return Cuda()
        except EngineError as error:
            raise tool_error(error) from error

    def environment(self, entry: Mapping[str, Any]) -> Environment:
        """What the preflight of the engine of an entry needs to know; the GPU's free memory is that of now. Without a
        plugin in the engine nothing is asked of the plugin library here, whose code that would run."""
        gpu, why_not = self._gpu(), Cuda.available() or ""
        plugin = _installed_plugin(gpu) if entry["plugin"] else (None, "")
        try:
            trt = import_tensorrt(TARGETS[entry["target"]].module)
        except EngineError:
            return Environment(None, entry["target"], gpu, why_not, *plugin)
        return Environment(trt.__version__, flavor(trt), gpu, why_not, *plugin)

    def known_code(self, entry: Mapping[str, Any], path: Path) -> bool | None:
        """Whether all host code in the engine of a file is the plugin library's here; None where it has none."""
        if not entry["plugin"] or not entry["plugin"]["embedded"]:
            return None
        try:
            library = find_library()
        except ToolError:
            return False
        return library is not None and holds_only(path, library)

    def load(self, entry: Mapping[str, Any], path: Path) -> tuple[Any, Any]:
        """TensorRT's module and the engine of a file that passed its preflight, with the plugin it needs."""
        plugin = entry["plugin"]
        embedded = bool(plugin and plugin["embedded"])
        try:
            trt = import_tensorrt(TARGETS[entry["target"]].module)
            if plugin and not embedded:
                load_plugin(trt, find_library(), plugin["operators"])
            return trt, load_engine(trt, path, embedded)
        except EngineError as error:
            raise tool_error(error) from error

    def said(self, target: str) -> str:
        """TensorRT's last error message, empty where it had none."""
        errors = logger(import_tensorrt(TARGETS[target].module)).errors
        return errors[-1].strip() if errors else ""

    def _gpu(self) -> Gpu | None:
        if Cuda.available() is not None:
            return None
        device, (free, total) = self.cuda.device(), self.cuda.memory()
        return Gpu(device["name"], device["sm"], device["driver"], device["runtime"], total, free)


@cache
def process_runtime() -> Runtime:
    """The one of this process: TensorRT wants one logger, and engines share a runtime."""
    return Runtime()


def _installed_plugin(gpu: Gpu | None) -> tuple[InstalledPlugin | None, str]:
    """The plugin library here, and why one that is here cannot be used."""
    try:
        library = find_library()
        if library is None:
            return None, ""
        info = _info(library, library.stat().st_mtime_ns)
    except ToolError as error:
        return None, str(error)
    return InstalledPlugin(info.build_id, info.sha256, list(info.operators), gpu is None or info.runs_on(gpu.sm)), ""


@cache
def _info(library: Path, changed: int) -> PluginInfo:
    """What a library says, asked once: that is a process, and a digest of all of it."""
    return library_info(library)
