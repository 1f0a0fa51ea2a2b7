"""A traced graph becomes a file of the bundle: weights streamed, checked, digests recorded."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from ..bundle import BundleWriter
from ..checkpoints.lazy import LazyTensor
from ..engines.targets import PUBLISHED_OPERATORS
from ..progress import Progress
from .operators import DOMAIN
from .weights import data_size, write_weights


def write_graph(
    model: ir.Model, tensors: Mapping[str, LazyTensor], writer: BundleWriter, name: str, progress: Progress
) -> Path:
    """Stream a traced graph's weights beside it, save it as `name` in the bundle, check it and return its path."""
    _check_operators(model)
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


def _check_operators(model: ir.Model) -> None:
    nodes = [node for graph in (model.graph, *model.functions.values()) for node in graph]
    if foreign := sorted({n.op_type for n in nodes if n.domain != DOMAIN and n.op_type not in PUBLISHED_OPERATORS}):
        raise AssertionError(f"{model.graph.name} was traced to operators no target is known to take: {foreign}")
