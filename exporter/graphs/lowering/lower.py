"""One component's published graph -> the graph that an engine is built from, with no second copy of its weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner

from ...bundle import Bundle
from ...errors import InputError
from ...inspection.memory_sites import DOMAIN
from ...inspection.values import dims_of, dtype_name, load_graph
from ...kv_cache import KINDS
from ...progress import Progress
from .cache import leave_past_out, past_dim, return_new_columns
from .edit import drop_unread
from .in_place import OPSET, write_in_place
from .native import merge_memory
from .plugin import remove_bodies
from .rotary import look_angles_up
from .stored import NewWeights, bring_data


@dataclass(frozen=True)
class Lowered:
    """A lowered graph. inputs and outputs are the manifest's ports with every dtype a real one; ranges those of its
    dynamic dimensions; cache is {"kind", "axis", "layers", "capacity"}, capacity in columns, None without one.

    lowering is "plugin" where `memory_sites` nodes are left to the plugin; in "native" ones so many were written out.
    """

    path: Path
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    ranges: dict[str, list[int]]
    cache: dict[str, Any] | None
    memory_sites: int
    lowering: str


def lower(
    bundle: Bundle,
    component: str,
    precision: str,
    folder: Path,
    *,
    plugin: bool,
    cache: str = "delta",
    capacity: int | None = None,
    single_pass: bool = False,
    portable: bool = False,
    progress: Progress | None = None,
) -> Lowered:
    """Write `<component>.onnx` into `folder`, lowered from the bundle's graph in `precision`.

    Beside it come a link to the published data file and `<component>.lowered.data` with the weights that are new;
    portable copies the data, for a folder that goes to another machine. plugin leaves memory lookups to it, where it
    has the operator. cache is "delta", "concat" or "in_place"; that one holds `capacity` columns, all that the ranges
    allow unless given. single_pass leaves the cache out. Raises InputError where the bundle has no such graph, one that
    was not published by this tool, or one whose cache cannot have that form.
    """
    if cache not in KINDS:
        raise InputError(f"a cache of kind {cache!r} cannot be lowered to; choose {' or '.join(KINDS)}.")
    source = bundle.graph(component, precision)
    model = load_graph(source)
    entry = bundle.manifest["components"][component]
    held = None if single_pass or not entry["cache"] else _cache(entry, cache, capacity)
    sites = sum(node.domain == DOMAIN for node in model.graph.node)
    bring_data(model.graph, source, folder, portable, progress or Progress())
    left = remove_bodies(model) if plugin else 0
    with NewWeights(folder / f"{component}.lowered.data", source) as new:
        if entry["cache"] and single_pass:
            leave_past_out(model.graph, entry)
        elif held and cache == "delta":
            return_new_columns(model.graph, entry)
        elif held and cache == "in_place":
            write_in_place(model.graph, entry, held["capacity"])
        if held and cache != "concat":
            look_angles_up(model.graph, _positions(entry), new)
        if not left:
            merge_memory(model, new)
    model = _tidied(model)
    ranges = entry["ranges"]
    if held and cache == "in_place":
        _raise_opset(model)
        ranges = ranges | _within(entry, held["capacity"])
    path = folder / f"{component}.onnx"
    path.write_bytes(model.SerializeToString())
    inputs, outputs = _ports(model.graph.input), _ports(model.graph.output)
    named = {term for port in inputs for dim in port["dims"] if isinstance(dim, str) for term in dim.split(" + ")}
    return Lowered(
        path=path,
        inputs=inputs,
        outputs=outputs,
        ranges={name: limits for name, limits in ranges.items() if name in named},
        cache=held,
        memory_sites=left or sites,
        lowering="plugin" if left else "native",
    )


def _positions(entry: Mapping[str, Any]) -> int:
    """How many columns past and sequence can have together."""
    return sum(entry["ranges"][term][1] for term in _terms(entry))


def _terms(entry: Mapping[str, Any]) -> list[str]:
    """The names of the dimensions whose sum the published present has: past and sequence."""
    past = past_dim(entry)
    total: str = next(dim for port in entry["outputs"] for dim in port["dims"] if past in str(dim))
    return total.split(" + ")


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Operators that still have a body are written out; what is not read any more goes."""
    model = onnx.inliner.inline_local_functions(model)
    # What was known of the values in between no longer holds for all, and engines infer it themselves.
    del model.graph.value_info[:]
    drop_unread(model.graph)
    used = {node.domain for node in model.graph.node}
    for i in reversed(range(len(model.opset_import))):
        if model.opset_import[i].domain not in ("", *used):
            del model.opset_import[i]
    return model


def _ports(values: Iterable[onnx.ValueInfoProto]) -> list[dict[str, Any]]:
    return [
        {"name": value.name, "dtype": dtype_name(value.type.tensor_type.elem_type), "dims": dims_of(value)}
        for value in values
    ]


def _cache(entry: Mapping[str, Any], kind: str, capacity: int | None) -> dict[str, Any]:
    # The past of the last call and its new column.
    most = entry["ranges"][past_dim(entry)][1] + 1
    if kind != "in_place" or capacity is None:
        capacity = most
    if not 1 <= capacity <= most:
        raise InputError(f"a cache of {capacity} columns was asked for (--max-seq); this decoder takes 1 to {most}.")
    return {**entry["cache"], "kind": kind, "capacity": capacity}


def _within(entry: Mapping[str, Any], capacity: int) -> dict[str, list[int]]:
    """The ranges of past and new columns that fit into a static cache."""
    past, limits = past_dim(entry), {term: entry["ranges"][term] for term in _terms(entry)}
    return {term: [low, min(high, capacity - (term == past))] for term, (low, high) in limits.items()}


def _raise_opset(model: onnx.ModelProto) -> None:
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = max(opset.version, OPSET)
