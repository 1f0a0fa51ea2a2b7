"""A graph evaluated in NumPy as the parsers of TensorRT 8.5 and 8.6 read it, after their sources.

Integers have 32 bits everywhere; Shape has neither start nor end; axes of ReduceMean and ReduceMax are an attribute or
all; a Constant's list of integers is empty; Split makes equal parts where no sizes are stored.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

_INT32 = np.iinfo(np.int32)


class Shape(OpRun):
    op_domain = ""

    def _run(self, data: np.ndarray, **ignored: Any) -> tuple[np.ndarray]:
        return (np.array(data.shape, np.int32),)


class _Reduce(OpRun):
    op_domain = ""

    def _run(self, data: np.ndarray, *ignored: Any, axes: Any = None, keepdims: int = 1, **more: Any) -> tuple[Any]:
        assert data.dtype.kind == "f"
        axis = tuple(axes) if axes is not None else None
        return (np.asarray(self.reduce(data, axis=axis, keepdims=bool(keepdims)), data.dtype),)


class ReduceMean(_Reduce):
    reduce = staticmethod(np.mean)


class ReduceMax(_Reduce):
    reduce = staticmethod(np.max)


class Constant(OpRun):
    op_domain = ""

    def _run(self, value: Any = None, value_ints: Any = None, value_float: Any = None, **more: Any) -> tuple[Any]:
        if value_ints is not None:
            return (np.empty(0, np.int32),)
        return (np.float32(value_float) if value is None else value,)


OPERATORS = [Shape, ReduceMean, ReduceMax, Constant]


def run_as_read(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a graph, which is changed, by name. Raises ValueError where what is read does not fit together."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT64:
            narrow = numpy_helper.to_array(tensor).clip(_INT32.min, _INT32.max).astype(np.int32)
            tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Cast" else ():
            if attribute.name == "to" and attribute.i == TensorProto.INT64:
                attribute.i = TensorProto.INT32
    names = [value.name for value in model.graph.output]
    feed = {
        value.name: inputs[value.name].astype(np.int32) if inputs[value.name].dtype == np.int64 else inputs[value.name]
        for value in model.graph.input
    }
    return dict(zip(names, ReferenceEvaluator(model, new_ops=OPERATORS).run(None, feed), strict=True))
