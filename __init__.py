"""memvp-export: official MemVP and APT checkpoints to ONNX and TensorRT, with proof of parity at every step.

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Bundle": "exporter.bundle",
    "Request": "exporter.engines.request",
    "Session": "exporter.session",
    "adopt_engines": "exporter.engines.build",
    "bench": "exporter.bench.measure",
    "build_engines": "exporter.engines.build",
    "calibrate": "calibration.calibrate",
    "check": "exporter.parity.check",
    "export_onnx": "exporter.export",
    "inspect_path": "exporter.inspection.path_report",
    "lower_engines": "exporter.engines.build",
    "make_image": "exporter.make_images",
    "open_session": "exporter.run",
    "plan_engines": "exporter.engines.build",
    "read_source": "exporter.checkpoints.source",
    "run": "exporter.run",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
