"""What a half-precision graph computes in float32, and why.

The float32 nodes of a graph fall into groups that exchange float32 values. A group's reason is read from its
operators and from the graph inputs and outputs it touches, so a part that is in float32 by mistake shows as "other".
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx
from onnx import numpy_helper

from ..keep_fp32 import METADATA, is_kept
from .costs import Bodies
from .memory_sites import memory_nodes
from .values import TypedGraph

HALF = ("float16", "bfloat16")
KEPT = "kept by --keep-fp32"
_WHY = {
    KEPT: "the modules that were named, and what reads their results before the next half module",
    "norm statistics": "sums of squares overflow float16 and lose the mean in bfloat16",
    "softmax and mask": "a finite half mask plus a negative score is -inf, and a masked row NaN",
    "rotary": "angles grow with the position, or the time step, beyond what half types resolve",
    "memory products": "they are quadratic in the activations and overflow where the result does not",
    "mask counts": "half types do not count far: float16 to 2048, bfloat16 to 256",
    "token numbers": "ids and positions are whole numbers, which half types tell apart no farther than that",
    "interpolation": "its weights are put together from stored tables first, and rounded once",
    "small factor": "a small number times small values is below what float16 resolves",
    "other": "no known reason: it may be float32 by mistake",
}
_NORMS = frozenset(
    ("LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization", "ReduceL2")
)
_MEANS, _ROOTS = frozenset(("ReduceMean", "ReduceSum", "ReduceSumSquare")), frozenset(("Sqrt", "Reciprocal", "Pow"))
_ANGLES = frozenset(("Cos", "Sin"))
_SMALL = 1 / 16
# The bulk of the work: in float32 it is never part of one of the known reasons.
PRODUCTS = frozenset(("MatMul", "Gemm", "Conv", "ConvTranspose"))


@dataclass
class Island:
    """All float32 groups of one reason: how many, their nodes by operator, and the first node's name of each."""

    reason: str
    why: str
    groups: int = 0
    nodes: int = 0
    operators: dict[str, int] = field(default_factory=dict)
    at: list[str] = field(default_factory=list)


def find_islands(graph: TypedGraph, bodies: Bodies) -> list[Island]:
    """The float32 islands of a graph that computes in half precision, most nodes first."""
    found: dict[str, Island] = {}
    for group in _groups(graph):
        first = group.nodes[0]
        # What lowering wrote out has no names.
        _enter(found, group.reason, group.nodes, first.name or first.output[0])
    for node in memory_nodes(graph):
        body = bodies.of(node) if graph.function(node) else None
        wide = node.output[0] in graph.types and graph.types[node.output[0]].dtype == "float32"
        for group in _groups(body) if body else []:
            _enter(found, KEPT if wide else "memory products", group.nodes, node.name)
    return sorted(found.values(), key=lambda island: -island.nodes)


def _enter(found: dict[str, Island], reason: str, nodes: list[onnx.NodeProto], at: str) -> None:
    why = _WHY.get(reason, "the interface is float32 in every precision")
    island = found.setdefault(reason, Island(reason, why))
    island.groups += 1
    island.nodes += len(nodes)
    counts = Counter(island.operators) + Counter(node.op_type for node in nodes)
    island.operators = dict(sorted(counts.items()))
    island.at.append(at)


@dataclass
class _Group:
    """Float32 nodes that belong together; `table` ones depend on integers alone and may serve many other groups."""

    nodes: list[onnx.NodeProto]
    table: bool
    reason: str = "other"

    @property
    def inputs(self) -> set[str]:
        return {name for node in self.nodes for name in node.input}

    @property
    def outputs(self) -> set[str]:
        return {name for node in self.nodes for name in node.output}


def _groups(graph: TypedGraph) -> list[_Group]:
    live = {name for name, value in graph.types.items() if value.dtype == "float32"} - graph.static
    tables = _integer_made(graph)
    nodes = [node for node in graph.nodes if _touches(node, live)]
    groups = [
        _Group(part, table)
        for table in (True, False)
        for part in _connected([node for node in nodes if (set(node.output) <= tables) is table], live)
    ]
    # Tables take the reason of what reads them, so they come last.
    for group in sorted(groups, key=lambda group: group.table):
        group.reason = _reason(group, groups, graph)
    return groups


def _touches(node: onnx.NodeProto, live: set[str]) -> bool:
    return node.op_type not in ("Shape", "Size") and not live.isdisjoint((*node.input, *node.output))


def _integer_made(graph: TypedGraph) -> set[str]:
    """Values that follow from integers, masks and small constants: positions, masks and the angles made of them."""
    made = {name for name, value in graph.types.items() if "float" not in value.dtype}
    made |= {name for name in graph.static if len(getattr(graph.types.get(name), "dims", None) or ()) <= 1}
    for node in graph.nodes:
        if node.input and all(name in made for name in node.input if name):
            made.update(node.output)
    return made


def _connected(nodes: Iterable[onnx.NodeProto], live: set[str]) -> list[list[onnx.NodeProto]]:
    """Split nodes, in graph order, into parts that exchange live values: an edge is producer -> reader."""
    part_of: dict[str, list[onnx.NodeProto]] = {}
    parts: dict[int, list[onnx.NodeProto]] = {}
    for node in nodes:
        part = [node]
        for earlier in {id(part_of[name]): part_of[name] for name in node.input if name in part_of}.values():
            part = [*earlier, *part]
            parts.pop(id(earlier))
        parts[id(part)] = part
        for member in part:
            part_of.update((name, part) for name in member.output if name in live)
    return list(parts.values())


def _reason(group: _Group, groups: list[_Group], graph: TypedGraph) -> str:
    operators = {node.op_type for node in group.nodes}
    if any(is_kept(name, _kept_patterns(graph)) for name in _float32_weights(graph) & group.inputs):
        return KEPT
    if operators & PRODUCTS and not group.table:
        return "memory products" if _weighted_by_largest(group) else "other"
    if operators & _NORMS or (operators & _MEANS and operators & _ROOTS):
        return "norm statistics"
    if "Softmax" in operators:
        return "softmax and mask"
    if operators & _ANGLES or any(_makes_angles(table) and table.outputs & group.inputs for table in groups):
        return "rotary"
    if group.table:
        made = _float32(group.outputs, graph)
        if not any(g.inputs & made for g in groups if g is not group):
            if "ReduceSum" in operators:
                return "mask counts"
            if "Equal" in operators:
                return "token numbers"
        readers = (g.reason for g in groups if not g.table and g.inputs & group.outputs)
        return next((reason for reason in readers if reason != "other"), "other")
    if _blends_tables(group, graph):
        return "interpolation"
    if _scales_down(group, graph):
        return "small factor"
    return _interface(group, graph)


def _weighted_by_largest(group: _Group) -> bool:
    """Whether every product is of activations whose largest weighs it: an ApproximatedPrompt that was written out."""
    activations = {node.input[0] for node in group.nodes if node.op_type == "ReduceMax"}
    return all(node.input[0] in activations for node in group.nodes if node.op_type in PRODUCTS)


def _blends_tables(group: _Group, graph: TypedGraph) -> bool:
    """Whether rows of stored tables are multiplied with one another: an embedding is scaled by a number at most."""
    read = _float32(group.inputs - group.outputs, graph)
    products = [node for node in group.nodes if node.op_type == "Mul" and graph.static.isdisjoint(node.input)]
    return bool(products) and read <= graph.static and any(node.op_type == "Gather" for node in group.nodes)


def _scales_down(group: _Group, graph: TypedGraph) -> bool:
    """Whether values are multiplied with one stored number below a sixteenth, and nothing else."""
    products = [node for node in group.nodes if node.op_type != "Cast"]
    if [node.op_type for node in products] != ["Mul"]:
        return False
    numbers = [
        numpy_helper.to_array(tensor).item()
        for tensor in graph.model.graph.initializer
        if tensor.name in products[0].input and not tensor.dims and tensor.data_location != onnx.TensorProto.EXTERNAL
    ]
    return bool(numbers) and all(abs(number) < _SMALL for number in numbers)


def _float32(names: set[str], graph: TypedGraph) -> set[str]:
    return {name for name in names if name in graph.types and graph.types[name].dtype == "float32"}


def _kept_patterns(graph: TypedGraph) -> list[str]:
    """What `--keep-fp32` named when the graph was traced: the exporter's own note, nothing where another wrote it."""
    noted = {entry.key: entry.value for entry in graph.model.metadata_props}.get(METADATA, "[]")
    try:
        patterns = json.loads(noted)
    except (ValueError, RecursionError):
        return []
    return [str(pattern) for pattern in patterns] if isinstance(patterns, list) else []


def _float32_weights(graph: TypedGraph) -> set[str]:
    return {t.name for t in graph.model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}


def _makes_angles(group: _Group) -> bool:
    return group.table and any(node.op_type in _ANGLES for node in group.nodes)


def _interface(group: _Group, graph: TypedGraph) -> str:
    inputs = _float32_ports(graph.model.graph.input, group.inputs, graph)
    outputs = _float32_ports(graph.model.graph.output, group.outputs, graph)
    return ", ".join([f"input {name}" for name in inputs] + [f"output {name}" for name in outputs]) or "other"


def _float32_ports(ports: Iterable[onnx.ValueInfoProto], names: set[str], graph: TypedGraph) -> list[str]:
    return [port.name for port in ports if port.name in names and graph.types[port.name].dtype == "float32"]
