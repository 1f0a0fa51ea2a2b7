"""What a lowered decoder takes and gives back of its cache.

As published (concat), `present` is the past and the new columns. With delta it is the new columns alone, and whoever
runs the decoder appends them; a single pass has neither past nor present. `in_place.py` makes the fourth form.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from ...dims import Dim, without_term
from ...errors import InputError
from ...inspection.values import dims_of
from ...kv_cache import KVCache
from .additions import Additions
from .edit import drop_unread, producers, read_instead, rename


def return_new_columns(graph: onnx.GraphProto, component: Mapping[str, Any]) -> None:
    """Let every `present` output be what was appended to its past. Attention still reads both as one: engines join
    them as they read."""
    new = new_columns(graph, component)
    rename(graph, {present: f"{present}/all" for present in new})
    rename(graph, {columns: present for present, columns in new.items()})
    past = past_dim(component)
    for value in graph.output:
        if value.name in new:
            _remove_term(value, past)


def leave_past_out(graph: onnx.GraphProto, component: Mapping[str, Any]) -> None:
    """Take away past inputs and present outputs: the graph then serves sequences in one piece."""
    cache, past = KVCache(component, "fp32", 1), past_dim(component)
    columns = new_columns(graph, component)
    for ports, names in ((graph.input, cache.past), (graph.output, cache.present)):
        for i in reversed(range(len(ports))):
            if ports[i].name in names:
                del ports[i]
            else:
                _remove_term(ports[i], past)
    _take_sizes_elsewhere(graph, component, set(cache.past))
    read_instead(graph, columns)
    drop_unread(graph)


def new_columns(graph: onnx.GraphProto, component: Mapping[str, Any]) -> dict[str, str]:
    """What is appended to its past, by the name of the present output."""
    cache, axis, made = KVCache(component, "fp32", 1), component["cache"]["axis"], producers(graph)
    found = {}
    for past, present in zip(cache.past, cache.present, strict=True):
        node = made.get(present)
        axes = [a.i for a in node.attribute if a.name == "axis"] if node else []
        if node is None or node.op_type != "Concat" or axes != [axis] or node.input[0] != past or len(node.input) != 2:
            raise InputError(f"{present} of graph {graph.name!r} is not {past} with new columns at axis {axis}.")
        found[present] = node.input[1]
    return found


def past_dim(component: Mapping[str, Any]) -> str:
    """The name of the dimension that counts the columns of the past."""
    cache = KVCache(component, "fp32", 1)
    dims: list[Dim] = next(port["dims"] for port in component["inputs"] if port["name"] == cache.past[0])
    return str(dims[component["cache"]["axis"]])


def _remove_term(value: onnx.ValueInfoProto, term: str) -> None:
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param:
            dim.dim_param = str(without_term(dim.dim_param, term))


def _take_sizes_elsewhere(graph: onnx.GraphProto, component: Mapping[str, Any], gone: set[str]) -> None:
    """Read sizes that were read off the past inputs off other inputs; the past itself has none left."""
    past = past_dim(component)
    dims = {port["name"]: port["dims"] for port in component["inputs"]}
    places = {d: (v.name, i) for v in reversed(graph.input) for i, d in enumerate(dims_of(v)) if isinstance(d, str)}
    added, replaced = Additions(graph), {}
    for node in graph.node:
        if node.op_type != "Shape" or node.input[0] not in gone:
            continue
        limits = {a.name: a.i for a in node.attribute}
        sizes = []
        for dim in dims[node.input[0]][limits.get("start", 0) : limits.get("end")]:
            if dim in places:
                source, axis = places[dim]
                sizes.append(added.node("Shape", [source], f"single_pass/{dim}", start=axis, end=axis + 1))
            else:
                size = 0 if dim == past else dim
                sizes.append(added.constant(np.array([size]), f"single_pass/{size}"))
        replaced[node.output[0]] = sizes
    for output, sizes in replaced.items():
        added.node("Concat", sizes, output, axis=0)
    added.apply(set(replaced))
