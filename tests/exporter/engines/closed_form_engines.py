"""Engines of the closed form of tests/runtime, as a session on a GPU that is not there loads them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from memvp_export.exporter.bundle import Bundle, sha256_file
from memvp_export.exporter.cache import is_past, is_present
from memvp_export.exporter.engines.session import TensorRTSession

from ...runtime import closed_form
from .fake_bundle import entry_of
from .fake_tensorrt import FakeRuntime

_DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def open_session(
    folder: Path, *entries: dict[str, Any], dtype: str = "float32", capacity: int = 1 << 40, **options: Any
) -> tuple[TensorRTSession, FakeRuntime]:
    """A session over engines of `closed_form`'s entries, whose caches have a dtype, and the runtime under it."""
    listed, files = [], {}
    for entry in entries:
        parts = {key: [_typed(port, dtype) for port in entry[key]] for key in ("inputs", "outputs")}
        whole = entry_of(entry["component"], "fp32", **parts, profiles=entry["profiles"], cache=entry["cache"])
        path = folder / whole["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("an engine")
        listed.append({**whole, "source": {}})
        files[whole["file"]] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
    graphs = {entry["component"]: {"graphs": {"fp32": {"file": "x.onnx"}}} for entry in entries}
    manifest = {"precision": "fp32", "components": graphs, "engines": listed, "files": files}
    kind = next(entry["cache"]["kind"] for entry in entries if entry["cache"])
    runtime = FakeRuntime(compute=partial(_compute, kind=kind, dtype=dtype), capacity=capacity)
    return TensorRTSession(Bundle(folder, manifest), runtime=runtime, **options), runtime  # type: ignore[arg-type]


def _typed(port: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    return {**port, "dtype": dtype} if is_past(port["name"]) or is_present(port["name"]) else dict(port)


def _compute(feed: Mapping[str, np.ndarray], kind: str, dtype: str) -> dict[str, np.ndarray]:
    wide = {name: array.astype(np.float32) if is_past(name) else array for name, array in feed.items()}
    found = closed_form.compute(wide, kind) if any(map(is_past, feed)) else closed_form.compute_encoder(wide)
    return {
        name: array.astype(_DTYPES.get(dtype, array.dtype)) if is_present(name) else array
        for name, array in found.items()
    }
