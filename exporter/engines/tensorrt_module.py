"""TensorRT in this process: its module, its one logger, plugin libraries, loaded engines."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .engine_error import EngineError
from .shared_library import library_fault

# Target -> Python module and its versions, from the first to below the second.
MODULES = {
    "tensorrt": ("tensorrt", (10, 3), (12, 0)),
    "tensorrt-rtx": ("tensorrt_rtx", (1, 1), (2, 0)),
    "tensorrt-8": ("tensorrt", (8, 5), (8, 7)),
}
_INSTALL = {
    "tensorrt": "Install it with:  pip install 'memvp-export[gpu]'  (a Jetson has it from JetPack 6.1 on)",
    "tensorrt-rtx": "Install it with:  pip install 'memvp-export[rtx]'",
    "tensorrt-8": "JetPack 5 comes with it; elsewhere, under a Python up to 3.10:  pip install tensorrt==8.5.3.1",
}


def import_tensorrt(module: str = "tensorrt", target: str | None = None) -> Any:
    """The Python module of TensorRT, "tensorrt" or "tensorrt_rtx"; EngineError where it is absent, or of a version
    that is not known, or not that of `target`."""
    targets = [name for name, held in MODULES.items() if held[0] == module and target in (None, name)]
    try:
        trt = importlib.import_module(module)
    except ImportError as error:
        raise EngineError(f"{module} cannot be loaded ({error}). {_INSTALL[targets[0]]}", "environment") from error
    if target_of(module, trt.__version__) not in targets:
        ranges = " or ".join(
            "from {} to below {}".format(*(".".join(map(str, version)) for version in MODULES[name][1:]))
            for name in targets
        )
        message = f"{module} {trt.__version__} is not known to work: {ranges} is needed."
        raise EngineError(f"{message} {_INSTALL[targets[0]]}", "environment")
    return trt


def target_of(module: str, version: str) -> str | None:
    """The target whose engines a version of a module builds and runs; None where it is not known to."""
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    for target, (name, lowest, below) in MODULES.items():
        if name == module and lowest <= number < below:
            return target
    return None


def flavor(trt: Any) -> str:
    """ "tensorrt", or "tensorrt-rtx" where its libraries are those of TensorRT-RTX, whatever the module's name."""
    try:
        rtx = "libtensorrt_rtx" in Path("/proc/self/maps").read_text()
    except OSError:
        rtx = False
    return "tensorrt-rtx" if rtx or trt.__name__ == "tensorrt_rtx" else "tensorrt"


_LOGGERS: dict[str, Any] = {}


def logger(trt: Any) -> Any:
    """The process's one logger of this module; it keeps the errors and the listing of layers of the last build.

    TensorRT holds on to the first logger it is given: a process must never drop it or make another.
    """
    if trt.__name__ not in _LOGGERS:

        class Log(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.errors: list[str] = []
                self.layers = ""

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    self.errors.append(message)
                elif "Layers:\n" in message:
                    self.layers = message

        _LOGGERS[trt.__name__] = Log()
    return _LOGGERS[trt.__name__]


def load_plugin(trt: Any, library: str | Path | None, operators: Iterable[str] = ()) -> None:
    """Register the creators of a plugin library, once a process; EngineError where `operators` are then missing.

    Without a library the creators must have been registered by the process itself.
    """
    registry = trt.get_plugin_registry()

    def missing() -> list[str]:
        # TensorRT 8 has one kind of creator.
        kind = "all_creators" if hasattr(registry, "all_creators") else "plugin_creator_list"
        known = {creator.name for creator in getattr(registry, kind)}
        return [name for name in operators if name not in known]

    if library and (missing() or not operators):
        require_library(library)
        if hasattr(registry, "load_library"):
            registry.load_library(str(Path(library).resolve()))
        else:
            _open_plugin(Path(library).resolve())
    if missing():
        message = (
            f"{trt.__name__} {trt.__version__} cannot load the plugin: {library or 'this process'} has no creator of "
            f"{', '.join(missing())}. Build the library for this machine:  memvp-export plugin build  (and give it to "
            "build.sh with --plugin; or build with --plugin off)"
        )
        raise EngineError(with_reason(message, logger(trt).errors), "environment")


def require_library(library: str | Path) -> None:
    """Raise EngineError where a plugin library is not there, or is none that this machine could open."""
    path = Path(library)
    fault = library_fault(path) if path.is_file() else "is no file" if path.exists() else "does not exist"
    if fault:
        remedy = "Build it for this machine:  memvp-export plugin build  (and give it to build.sh with --plugin)"
        raise EngineError(f"the plugin library {library} {fault}. {remedy}", "input")


def _open_plugin(library: Path) -> None:
    """Let a library register itself: in Python, TensorRT 8 can load none."""
    try:
        # The package keeps its libraries to itself; a plugin must find TensorRT's registry.
        ctypes.CDLL("libnvinfer.so.8", mode=ctypes.RTLD_GLOBAL)
        register = ctypes.CDLL(str(library)).memvp_plugin_register
    except (OSError, AttributeError) as error:
        message = f"the plugin library {library} cannot be used with TensorRT 8 ({error}). Build it with its headers."
        raise EngineError(message, "environment") from error
    register.restype = ctypes.c_bool
    register()


_RUNTIMES: dict[str, Any] = {}


def load_engine(trt: Any, path: str | Path, host_code: bool = False) -> Any:
    """The deserialized engine of a file; EngineError with TensorRT's reason where this machine cannot load it.

    host_code permits an engine that carries a plugin library to run it.
    """
    log = logger(trt)
    del log.errors[:]
    if trt.__name__ not in _RUNTIMES:
        _RUNTIMES[trt.__name__] = trt.Runtime(log)
    runtime = _RUNTIMES[trt.__name__]
    # TensorRT 8.5 has no engines with code in them.
    if hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = host_code
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            engine = runtime.deserialize_cuda_engine(data)
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read: {error}", "input") from error
    if engine is None:
        message = f"{trt.__name__} {trt.__version__} cannot load {path} on this machine."
        raise EngineError(with_reason(message, log.errors), "environment")
    return engine


def bare_context(trt: Any, engine: Any) -> Any:
    """An execution context without memory for activations; None where there can be none."""
    strategies = getattr(trt, "ExecutionContextAllocationStrategy", None)
    if strategies is None:
        return engine.create_execution_context_without_device_memory()
    return engine.create_execution_context(strategies.USER_MANAGED)


def give_activations(context: Any, pointer: int, size: int) -> None:
    """Memory for the activations of such a context."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(pointer, size)
    else:
        context.device_memory = pointer


def activation_bytes(engine: Any) -> int:
    """How much of it the engine needs."""
    return int(getattr(engine, "device_memory_size_v2", None) or engine.device_memory_size)


def with_reason(message: str, errors: list[str]) -> str:
    return message + (f" TensorRT says: {errors[-1].strip()}" if errors else "")
