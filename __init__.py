"""memvp-export: official MemVP and APT checkpoints to ONNX and TensorRT, with proof of parity at every step.

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Bundle": "bundle",
    "Request": "engines.request",
    "Session": "session",
    "adopt_engines": "engines.build",
    "bench": "bench.measure",
    "build_engines": "engines.build",
    "check": "parity.check",
    "export_onnx": "export",
    "inspect_path": "inspection",
    "lower_engines": "engines.build",
    "make_image": "make_images",
    "open_session": "run",
    "plan_engines": "engines.build",
    "read_source": "checkpoints.source",
    "run": "run",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".exporter.{_EXPORTS[name]}", __name__), name)
