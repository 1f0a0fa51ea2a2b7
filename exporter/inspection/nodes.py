"""Which operators a graph is made of, and the type each node computes in."""

from collections import Counter
from collections.abc import Mapping

import onnx

from .values import TypedGraph, ValueType

CONVERSIONS = ("Cast", "CastLike", "QuantizeLinear", "DequantizeLinear")


def operators_by_type(graph: TypedGraph) -> dict[str, dict[str, int]]:
    """How many nodes there are of each operator, by the type they compute in; casts by "from->to"."""
    table: dict[str, Counter[str]] = {}
    for node in graph.nodes:
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        table.setdefault(name, Counter())[compute_type(node, graph.types)] += 1
    return {name: dict(sorted(table[name].items())) for name in sorted(table)}


def compute_type(node: onnx.NodeProto, types: Mapping[str, ValueType]) -> str:
    """The type a node computes in: its first floating input's, else its result's; "a->b" for conversions."""
    inputs = [types[name].dtype for name in node.input if name in types]
    outputs = [types[name].dtype for name in node.output if name in types]
    if node.op_type in CONVERSIONS and inputs and outputs:
        return f"{inputs[0]}->{outputs[0]}"
    if node.op_type in ("Shape", "Size"):
        return "int64"
    floating = [dtype for dtype in (*inputs, *outputs) if "float" in dtype]
    return (floating or inputs or outputs or ["unknown"])[0]
