"""A cache of static capacity that the engine writes in place: no input is new.

The mask [B,P+T] says how long the past is. New columns go to the slots P to P+T-1; attention runs over all slots, and
those behind are masked, as each row sees none after its own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from ...dims import terms, without_term
from ...errors import InputError
from ...inspection.values import dims_of
from .additions import Additions
from .cache import new_columns, past_dim
from .edit import producers

# The first with TensorScatter. None of the published operators means anything else than in the published opsets.
OPSET = 24


def write_in_place(graph: onnx.GraphProto, component: Mapping[str, Any], capacity: int) -> None:
    """Let past and present be buffers of `capacity` columns, present the past with the new columns written into it.

    The model needs OPSET. Raises InputError where the graph has no mask that tells the length of the past, or reads
    that length off the past itself.
    """
    columns = new_columns(graph, component)
    past = {present: node.input[0] for present, node in producers(graph).items() if present in columns}
    _refuse_lengths_of(graph, {*past.values()}, component["cache"]["axis"])
    mask, ids = _ports_of_lengths(graph, component, {*past.values()})
    added = Additions(graph)

    def number(value: int) -> str:
        return added.constant(np.array([value]), f"in_place/{value}")

    total = added.node("Shape", [mask], "in_place/total", start=1, end=2)
    new = added.node("Shape", [ids], "in_place/new", start=1, end=2)
    rows = added.node("Shape", [ids], "in_place/rows", start=0, end=1)
    start = added.node("Expand", [added.node("Sub", [total, new], "in_place/length"), rows], "in_place/start")
    for present, update in columns.items():
        added.node("TensorScatter", [past[present], update, start], present, axis=component["cache"]["axis"])

    missing = added.node("Sub", [number(capacity), total], "in_place/missing")
    ends = added.node("Concat", [number(0), number(0), number(0), missing], "in_place/ends", axis=0)
    whole = added.node("Pad", [mask, ends], "in_place/mask")
    slots = {node.output[0] for node in graph.node if node.op_type == "Range" and _counts(graph, node.input[1], mask)}
    if not slots:
        raise InputError(f"graph {graph.name!r} does not number the columns of {mask}: export the bundle again.")
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == mask and node.op_type != "Shape":
                node.input[i] = whole
    for name in slots:
        added.constant(np.arange(capacity), name)
    added.apply({*columns, *slots})
    for value in (*graph.input, *graph.output):
        if value.name in past or value.name in past.values():
            dim = value.type.tensor_type.shape.dim[component["cache"]["axis"]]
            dim.Clear()
            dim.dim_value = capacity


def _refuse_lengths_of(graph: onnx.GraphProto, past: set[str], axis: int) -> None:
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in past:
            limits = {a.name: a.i for a in node.attribute}
            if limits.get("start", 0) <= axis < limits.get("end", axis + 1):
                raise InputError(f"graph {graph.name!r} takes the past's length from the past: use --cache delta.")


def _ports_of_lengths(graph: onnx.GraphProto, component: Mapping[str, Any], past: set[str]) -> tuple[str, str]:
    """The input [B,P+T] whose length is that of past and new columns, and one [B,T] of the new ones alone."""
    counted = past_dim(component)
    dims = {value.name: dims_of(value) for value in graph.input if value.name not in past}
    for mask, (_, *others) in dims.items():
        if len(others) == 1 and counted in terms(others[0]):
            rest = without_term(others[0], counted)
            for ids, shape in dims.items():
                if shape[1:] == [rest]:
                    return mask, ids
    raise InputError(f"graph {graph.name!r} has no mask that tells the past's length: use --cache delta.")


def _counts(graph: onnx.GraphProto, value: str, mask: str) -> bool:
    """Whether a value is the mask's length."""
    made = producers(graph)
    while value in made and made[value].op_type in ("Squeeze", "Shape"):
        if made[value].op_type == "Shape":
            return made[value].input[0] == mask
        value = made[value].input[0]
    return False
