"""Calibration: which ranges a model's activations take in use, and graphs that compute in INT8 or FP8 after them."""

from importlib import import_module
from typing import Any

_EXPORTS = {"calibrate": "calibrate"}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Importing the module of the same name puts it in the function's place.
    globals()[name] = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    return globals()[name]
