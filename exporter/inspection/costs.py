"""Multiply-accumulates of a graph at given sizes, counted from its own products.

MACs are those of MatMul, Gemm, Conv and their relatives; element-wise work and reductions are not counted. A FLOP
count is twice the MACs. Calls of local functions are counted in the function's body.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import inliner

from .values import TypedGraph, ValueType, type_graph

Dims = tuple[int, ...]
WEIGHTS, ACTIVATIONS = "weights", "activations"
# operator -> the positions of its two factors
_MATMULS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "Gemm": (0, 1)}
_CONVOLUTIONS = {"Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3), "ConvTranspose": (0, 1)}
_UNKNOWN = ("Einsum", "LSTM", "GRU", "RNN", "DeformConv", "Attention", "Loop", "If", "Scan")


@dataclass
class Macs:
    """MACs by what is multiplied: an activation with `weights`, or two `activations`; and what was not counted."""

    weights: int = 0
    activations: int = 0
    uncounted: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All MACs."""
        return self.weights + self.activations

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(
            self.weights + other.weights, self.activations + other.activations, self.uncounted + other.uncounted
        )


class Bodies:
    """The bodies of a model's function calls as typed graphs; calls with equal inputs and attributes share one."""

    def __init__(self, graph: TypedGraph) -> None:
        self._graph = graph
        self._known: dict[str, TypedGraph] = {}

    def of(self, node: onnx.NodeProto) -> TypedGraph | None:
        """The body of one call, or None where the type of an input is unknown."""
        inputs = [self._graph.types.get(name) for name in node.input]
        if None in inputs or not all(t is not None and t.known for t in inputs):
            return None
        static = [f"in{i}" for i, name in enumerate(node.input) if name in self._graph.static]
        call = onnx.NodeProto()
        call.CopyFrom(node)
        call.name = "call"
        call.input[:] = [f"in{i}" for i in range(len(node.input))]
        call.output[:] = [f"out{i}" for i in range(len(node.output))]
        key = f"{call.SerializeToString(deterministic=True)!r} {inputs} {static}"
        if key not in self._known:
            self._known[key] = type_graph(self._inlined(call, [t for t in inputs if t]), static=static)
        return self._known[key]

    def _inlined(self, call: onnx.NodeProto, inputs: list[ValueType]) -> onnx.ModelProto:
        ports = [
            onnx.helper.make_tensor_value_info(name, _element_type(t.dtype), t.dims)
            for name, t in zip(call.input, inputs, strict=True)
        ]
        # Results get their types from inference.
        outputs = [onnx.ValueInfoProto(name=name) for name in call.output]
        model = self._graph.model
        whole = onnx.helper.make_model(
            onnx.helper.make_graph([call], "body", ports, outputs),
            functions=list(model.functions),
            opset_imports=list(model.opset_import),
            ir_version=model.ir_version,
        )
        return inliner.inline_local_functions(whole)


def _element_type(dtype: str) -> int:
    return onnx.TensorProto.DataType.Value({"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper()))


def count(graph: TypedGraph, bodies: Bodies, skip: frozenset[str] = frozenset()) -> Macs:
    """The MACs of a graph, without the nodes that make a value in `skip`."""
    macs = Macs()
    for node in graph.nodes:
        if skip.isdisjoint(node.output):
            macs += count_node(node, graph, bodies)
    return macs


def count_node(node: onnx.NodeProto, graph: TypedGraph, bodies: Bodies) -> Macs:
    """The MACs of one node, or of the body it calls."""
    if graph.function(node):
        body = bodies.of(node)
        return count(body, Bodies(body)) if body else Macs(uncounted=[_label(node)])
    found = _product(node, graph.types)
    if found is None:
        return Macs(uncounted=[_label(node)]) if _counts(node) else Macs()
    macs, factors = found
    static = any(node.input[i] in graph.static for i in factors)
    return Macs(weights=macs) if static else Macs(activations=macs)


def _label(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} -> {', '.join(node.output)}"


def _counts(node: onnx.NodeProto) -> bool:
    return node.op_type in _MATMULS or node.op_type in _CONVOLUTIONS or node.op_type in _UNKNOWN or bool(node.domain)


def _product(node: onnx.NodeProto, types: Mapping[str, ValueType]) -> tuple[int, tuple[int, int]] | None:
    rule: Callable[[onnx.NodeProto, Dims, Dims, Dims], int]
    if node.op_type in _MATMULS:
        factors, rule = _MATMULS[node.op_type], _matmul
    elif node.op_type in _CONVOLUTIONS:
        factors, rule = _CONVOLUTIONS[node.op_type], _convolution
    else:
        return None
    dims = [_dims(types.get(name)) for name in (*(node.input[i] for i in factors), node.output[0])]
    left, right, result = dims
    if node.domain or left is None or right is None or result is None:
        return None
    return rule(node, left, right, result), factors


def _dims(value: ValueType | None) -> Dims | None:
    return tuple(d for d in value.dims if d is not None) if value and value.dims is not None and value.known else None


def _matmul(node: onnx.NodeProto, left: Dims, right: Dims, result: Dims) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(result) * (left[0] if transposed else left[-1])


def _convolution(node: onnx.NodeProto, data: Dims, kernel: Dims, result: Dims) -> int:
    # kernel is [out, in / group, ...] in Conv and [in, out / group, ...] in its transpose: the product is per element
    # of the result there, of the data here.
    return math.prod(data if node.op_type == "ConvTranspose" else result) * math.prod(kernel[1:])
