"""The tensors that quantized products read, and the norms that make them.

There SmoothQuant's division can be folded into weights that are multiplied anyway."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from ..exporter.graphs.lowering.edit import producers, weights
from .layers import Layer


@dataclass(frozen=True)
class Operand:
    """The tensor `value` and the layers that read it. norm names the nodes that scale it last, where a norm makes it: a
    Mul with a stored vector, then perhaps an Add with one and Casts; empty otherwise."""

    value: str
    norm: tuple[str, ...]
    layers: tuple[Layer, ...]


def find_operands(graph: onnx.GraphProto, layers: Sequence[Layer]) -> list[Operand]:
    """The tensors that the given layers read, in order."""
    made, stored = producers(graph), weights(graph)
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.input, []).append(layer)
    return [
        Operand(value, tuple(node.name for node in _norm(value, group[0].inputs, made, stored)), tuple(group))
        for value, group in groups.items()
    ]


def _norm(
    value: str, width: int, made: Mapping[str, onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    nodes: list[onnx.NodeProto] = []
    while (node := made.get(value)) is not None:
        nodes.insert(0, node)
        if node.op_type == "Mul":
            return nodes if _vector(node, stored) == width else []
        if node.op_type != "Cast" and not (node.op_type == "Add" and _vector(node, stored) == width):
            return []
        value = next(name for name in node.input if name not in stored)
    return []


def _vector(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> int:
    """The length of the one stored vector among a node's inputs; 0 where there is none, or nothing else."""
    vectors = [stored[name].dims[0] for name in node.input if name in stored and len(stored[name].dims) == 1]
    return vectors[0] if len(vectors) == 1 else 0
