"""Products that make query, key and value at once: a MatMul, the sum with its bias, and a Split into equal parts."""

from dataclasses import dataclass

import onnx

from ..exporter.graphs.lowering.edit import readers, weights


@dataclass(frozen=True)
class Packed:
    """add and split name the nodes behind a product, bias the stored vector; parts are the Split's results."""

    add: str
    split: str
    bias: str
    parts: tuple[str, ...]


def find_packed(graph: onnx.GraphProto) -> dict[str, Packed]:
    """The packed products of a graph by the name of the MatMul; of each part the heads are taken apart next."""
    read, stored = readers(graph), weights(graph)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    found = {}
    for node in graph.node:
        add = _only(read, node, "MatMul", "Add")
        split = _only(read, add, "Add", "Split") if add else None
        if add is None or split is None:
            continue
        bias = next((name for name in add.input if name in stored and len(stored[name].dims) == 1), None)
        set_to = {attribute.name: attribute.i for attribute in split.attribute}
        last = set_to.get("axis") in (-1, ranks.get(split.input[0], 0) - 1) and "num_outputs" in set_to
        after = [one.op_type for name in split.output for one in read.get(name, [])]
        if bias and last and {*after} == {"Reshape"} and not stored[bias].dims[0] % len(split.output):
            found[node.name] = Packed(add.name, split.name, bias, tuple(split.output))
    return found


def _only(read: dict[str, list[onnx.NodeProto]], node: onnx.NodeProto, kind: str, wanted: str) -> onnx.NodeProto | None:
    """The one node that reads what a node of a kind makes, where it is of the wanted kind."""
    reading = read.get(node.output[0], []) if node.op_type == kind else []
    return reading[0] if len(reading) == 1 and reading[0].op_type == wanted else None
