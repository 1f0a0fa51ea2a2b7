"""The weights of a published graph, read back by official name: what a graph in another precision is made of."""

import math
from pathlib import Path

import onnx
import torch
from onnx import external_data_helper
from torch import Tensor

from ..checkpoints.lazy import LazyTensor, read_values
from ..errors import InputError
from ..models.component import Component
from .passes import TRANSPOSED

_TORCH_DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
}


def stored_weights(graph: Path, component: Component) -> dict[str, LazyTensor]:
    """Every weight of `component` in the file `graph`, in the checkpoint's own orientation."""
    model = onnx.load(str(graph), load_external_data=False)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for name, weight in component.weights.items():
        if name not in initializers:
            raise InputError(f"{graph} has no weight {name!r}: it is not a graph of this bundle's model.")
        found[name] = _lazy(initializers[name], weight.shape, graph)
    return found


def _lazy(tensor: onnx.TensorProto, shape: tuple[int, ...], graph: Path) -> LazyTensor:
    info = external_data_helper.ExternalDataInfo(tensor)
    dtype, stored = _TORCH_DTYPES.get(tensor.data_type), tuple(tensor.dims)
    if dtype is None:
        raise InputError(
            f"{graph}: {tensor.name} is of the ONNX type {tensor.data_type}; weights are fp32, fp16 or bf16."
        )
    path = graph.with_name(graph.name + ".data")
    if info.location != path.name:
        raise InputError(f"{graph}: {tensor.name} is said to lie in {info.location!r}, not in {path.name}.")
    if stored not in (shape, shape[::-1]):
        raise InputError(f"{graph}: {tensor.name} has the shape {stored}, the model {shape}")

    def load() -> Tensor:
        values = read_values(path, info.offset or 0, math.prod(stored), dtype).view(stored)
        return values.t() if transposed else values

    transposed = is_transposed(tensor)
    return LazyTensor(shape, dtype, f"{graph.name}: {tensor.name}", load)


def is_transposed(tensor: onnx.TensorProto) -> bool:
    """Whether the file holds the transpose of the official tensor (`passes.fold_weight_transposes`)."""
    return any(entry.key == TRANSPOSED for entry in tensor.metadata_props)
