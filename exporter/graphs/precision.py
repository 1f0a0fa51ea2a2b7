"""A bundle's graph in another precision: traced again from the manifest, its weights cast from those it has."""

from collections.abc import Sequence
from pathlib import Path

from ..bundle import Bundle, BundleWriter
from ..models.component import constants_of
from ..models.family import components_of
from ..progress import Progress
from .publish import write_graph
from .stored import stored_weights
from .trace import default_opset, trace


def trace_again(
    bundle: Bundle,
    name: str,
    precision: str,
    writer: BundleWriter,
    progress: Progress,
    keep_fp32: Sequence[str] = (),
) -> Path:
    """Write `graphs/<name>.<precision>.onnx` through `writer`; no source is needed. Modules that match `keep_fp32` stay
    float32. Returns its path."""
    components = components_of(bundle.manifest["family"], bundle.manifest["config"])
    component = next(part for part in components if part.name == name)
    model = trace(component, precision, default_opset(precision), keep_fp32)
    tensors = {**stored_weights(bundle.graph(name), component), **constants_of([component])}
    return write_graph(model, tensors, writer, f"graphs/{name}.{precision}.onnx", progress)
