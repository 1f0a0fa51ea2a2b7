"""A traced graph becomes a file of the bundle: weights streamed, checked, digests recorded."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from ..bundle import BundleWriter
from ..checkpoints.lazy import LazyTensor
from ..progress import Progress
from .weights import data_size, write_weights


def write_graph(
    model: ir.Model, tensors: Mapping[str, LazyTensor], writer: BundleWriter, name: str, progress: Progress
) -> Path:
    """Stream a traced graph's weights beside it, save it as `name` in the bundle, check it and return its path."""
    path, data = writer.path(name), writer.path(f"{name}.data")
    size = data_size(model)
    with progress.stage(f"write {model.graph.name}", size) as advance:
        written = write_weights(model, tensors, data, advance)
        ir.save(model, path)
    writer.record(f"{name}.data", written.sha256)
    with progress.stage(f"check {model.graph.name}"):
        onnx.checker.check_model(str(path), full_check=True)
    writer.record(name)
    return path
