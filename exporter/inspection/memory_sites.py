"""The nodes where a graph looks its memory up, and what that costs.

Per token and site, with a memory of p rows of width d of which v come from the image:

* the tables: keys and values of p rows, `2 p d` MACs. This is the papers' own count (spec 9): they add the visual rows
  to the tables once and look the sum up.
* the visual rows: `2 v d` MACs more, because the factored operator multiplies them apart (docs/operators.md).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from .costs import Bodies, Macs, count_node
from .values import TypedGraph, ValueType

DOMAIN = "memvp"
VISUAL_MEMORY, APPROXIMATED_PROMPT = "VisualMemoryFFN", "ApproximatedPrompt"
# operator -> the positions of its visual rows and of its key table
_INPUTS: dict[str, tuple[int | None, int]] = {VISUAL_MEMORY: (2, 3), APPROXIMATED_PROMPT: (None, 2)}


@dataclass(frozen=True)
class Site:
    """One memory lookup: v, p and d of its tables, its attributes, and whether the file holds the operator's body."""

    name: str
    operator: str
    visual_rows: int | None
    table_rows: int | None
    width: int | None
    dtype: str
    activation: str | None
    scale: float | None
    body: bool


def memory_nodes(graph: TypedGraph) -> list[onnx.NodeProto]:
    """The graph's memory operators, in order."""
    return [node for node in graph.nodes if node.domain == DOMAIN and node.op_type in _INPUTS]


def site(node: onnx.NodeProto, graph: TypedGraph) -> Site:
    """Describe one memory operator."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    visual, keys = _rows(node, graph.types)
    activation: Any = attributes.get("activation", b"relu" if node.op_type == APPROXIMATED_PROMPT else None)
    return Site(
        name=node.name,
        operator=node.op_type,
        visual_rows=visual[-2] if visual else None,
        table_rows=keys[0] if keys else None,
        width=keys[1] if keys else None,
        dtype=graph.types[node.output[0]].dtype if node.output[0] in graph.types else "unknown",
        activation=activation.decode(errors="replace") if isinstance(activation, bytes) else activation,
        # Written as a float32: shown as the number that was meant.
        scale=float(f"{attributes['scale']:.7g}") if "scale" in attributes else None,
        body=graph.function(node),
    )


def memory_macs(nodes: list[onnx.NodeProto], graph: TypedGraph, bodies: Bodies) -> Macs:
    """What the memory adds: `weights` are the tables' MACs, `activations` those of the visual rows."""
    total = Macs()
    for node in nodes:
        total += count_node(node, graph, bodies) if graph.function(node) else _by_formula(node, graph)
    return total


def _by_formula(node: onnx.NodeProto, graph: TypedGraph) -> Macs:
    hidden = graph.types.get(node.input[0])
    visual, keys = _rows(node, graph.types)
    if hidden is None or hidden.dims is None or not hidden.known or keys is None:
        return Macs(uncounted=[node.name])
    elements = math.prod(d or 0 for d in hidden.dims)
    return Macs(weights=2 * elements * keys[0], activations=2 * elements * visual[-2] if visual else 0)


def _rows(
    node: onnx.NodeProto, types: Mapping[str, ValueType]
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    def dims(index: int | None) -> tuple[int, ...] | None:
        value = types.get(node.input[index]) if index is not None and index < len(node.input) else None
        if value is None or value.dims is None or not value.known or len(value.dims) < 2:
            return None
        return tuple(d for d in value.dims if d is not None)

    visual, keys = _INPUTS[node.op_type]
    return dims(visual), dims(keys)
