"""One component's published graph -> the graph that an engine is built from, with no second copy of its weights."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner

from ...bundle import Bundle
from ...cache import KINDS
from ...errors import InputError
from ...inspection.memory_sites import DOMAIN
from ...inspection.values import dims_of, dtype_name, load_graph
from ...progress import Progress
from .cache import leave_past_out, return_new_columns
from .edit import drop_unread
from .in_place import OPSET, write_in_place
from .native import merge_memory
from .opset17 import to_opset17
from .plugin import remove_bodies
from .ports import ports_of
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
    opset17: bool = False,
    progress: Progress | None = None,
) -> Lowered:
    """Write `<component>.onnx` into `folder`, lowered from the bundle's graph in `precision`.

    Beside it come a link to the published data file and `<component>.lowered.data` with the weights that are new;
    portable copies the data, for a folder that goes to another machine. plugin leaves memory lookups to it, where it
    has the operator. cache is "delta", "concat" or "in_place"; that one holds `capacity` columns, all that the ranges
    allow unless given. single_pass leaves the cache out. opset17 writes the graph for parsers that know no newer one.
    Raises InputError where the bundle has no such graph, one that was not published by this tool, one whose cache
    cannot have that form, or one that those parsers cannot read.
    """
    if cache not in KINDS:
        raise InputError(f"a cache of kind {cache!r} cannot be lowered to; choose {' or '.join(KINDS)}.")
    source = bundle.graph(component, precision)
    model = load_graph(source)
    entry = bundle.manifest["components"][component]
    planned = ports_of(entry, cache, capacity, single_pass)
    held = planned.cache
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
            look_angles_up(model.graph, held["capacity"], new)
        if not left:
            merge_memory(model, new)
    model = _tidied(model)
    if held and cache == "in_place":
        _raise_opset(model)
    if opset17:
        to_opset17(model)
    path = folder / f"{component}.onnx"
    path.write_bytes(model.SerializeToString())
    return Lowered(
        path=path,
        inputs=_ports(model.graph.input),
        outputs=_ports(model.graph.output),
        ranges=planned.ranges,
        cache=held,
        memory_sites=left or sites,
        lowering="plugin" if left else "native",
    )


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


def _raise_opset(model: onnx.ModelProto) -> None:
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = max(opset.version, OPSET)
