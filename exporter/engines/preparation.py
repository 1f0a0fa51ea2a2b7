"""What a build asks of its machine: a builder, caches in place, a timing cache, the plugin library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .engine_error import EngineError
from .tensorrt_module import flavor, require_library, with_reason


def make_builder(trt: Any, log: Any) -> Any:
    """TensorRT's builder; EngineError where this machine cannot have one."""
    try:
        builder = trt.Builder(log)
    except (TypeError, RuntimeError) as error:
        message = (
            f"{trt.__name__} {trt.__version__} cannot create a builder: it needs an NVIDIA GPU and its driver. "
            "Build where they are (trt --lower-only DIR, then its build.sh), or build for TensorRT-RTX, which "
            "needs none (--target tensorrt-rtx)."
        )
        raise EngineError(with_reason(message, log.errors or [str(error)]), "environment") from error
    # TensorRT-RTX reports that there is no driver, and builds without one.
    del log.errors[:]
    return builder


def cache_update(trt: Any, recipe: dict[str, Any]) -> Any:
    """The kind of layer that writes a cache in place, which not every TensorRT has; None where none is asked for."""
    if not recipe["cache"] or recipe["cache"]["kind"] != "in_place":
        return None
    kind = getattr(trt.LayerType, "KV_CACHE_UPDATE", None)
    if kind is None:
        message = (
            f"{trt.__name__} {trt.__version__} writes no cache in place: that takes TensorRT 10.15 or a newer one. "
            "Build with --cache delta."
        )
        raise EngineError(message, "environment")
    return kind


def load_timing_cache(trt: Any, config: Any, path: Path) -> None:
    """Give a builder's configuration the timing cache of a file, an empty one where there is none yet."""
    if flavor(trt) == "tensorrt-rtx":
        raise EngineError("TensorRT-RTX picks its kernels when an engine runs: it has no timing cache.", "input")
    held = path.read_bytes() if path.exists() else b""
    if not config.set_timing_cache(config.create_timing_cache(held), False):
        message = f"the timing cache {path} is of another TensorRT or GPU: name another file, or remove it."
        raise EngineError(message, "input")


def plugin_library(recipe: dict[str, Any], folder: Path, given: str | None) -> Path | None:
    """The plugin library of a build: the one that was given, else the recipe's; EngineError where it is none."""
    held = recipe["plugin"] and recipe["plugin"]["library"]
    # Absolute: build.sh changes into its folder, and messages must say where was looked.
    library = Path(given).absolute() if given is not None else folder / held if held else None
    if library:
        require_library(library)
    return library
