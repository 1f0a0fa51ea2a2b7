"""Lowered graphs and recipes in a folder: all that build_engine needs to make a bundle's engines, here or elsewhere."""

import json
import shutil
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from onnx import TensorProto

from ..bundle import Bundle, sha256_file
from ..graphs.lowering import Lowered, lower
from ..graphs.lowering.plugin import OPERATORS
from ..inspection.islands import PRODUCTS
from ..inspection.memory_sites import DOMAIN
from ..inspection.values import dtype_name, load_graph, type_graph
from ..progress import Progress
from .build_engine import SCHEMA
from .request import Settled, capacity_of, profiles_for
from .source_graph import graph_digests
from .targets import target_named

SUFFIX = ".recipe.json"


def write_recipe(
    bundle: Bundle, component: str, settled: Settled, folder: Path, progress: Progress, portable: bool = False
) -> Path:
    """Lower a component into `folder`, an own one for each precision, and write its recipe; returns the recipe's path.

    Published weights are linked; portable copies them. Raises InputError where explicit shapes do not fit.
    """
    request, choice = settled.request, settled.lowerings[component]
    with progress.stage(f"lower {component}"):
        lowered = lower(
            bundle,
            component,
            settled.precision,
            folder,
            plugin=choice.name == "plugin",
            cache=request.cache,
            capacity=capacity_of(request),
            single_pass=request.single_pass,
            portable=portable,
            opset17=target_named(settled.target).opset17,
            progress=progress,
        )
    profiles = profiles_for(lowered.inputs, lowered.ranges, request)
    stem = f"{component}.{settled.precision}{'.plugin' if lowered.lowering == 'plugin' else ''}"
    recipe = {
        "schema": SCHEMA,
        "component": component,
        "source": graph_digests(bundle, component, settled.precision),
        "onnx": lowered.path.name,
        "engine": f"{stem}.engine",
        "record": f"{stem}.json",
        "target": settled.target,
        "precision": settled.precision,
        "plain": bundle.plain_precision(settled.precision),
        "quantized": quantized_weights(lowered.path),
        "keep_fp32": kept_products(lowered.path, settled.keep_fp32[component]),
        "lowering": lowered.lowering,
        "memory_sites": lowered.memory_sites,
        "inputs": lowered.inputs,
        "outputs": lowered.outputs,
        "ranges": lowered.ranges,
        "cache": lowered.cache,
        "profiles": [{"name": profile.name, "shapes": profile.shapes} for profile in profiles],
        "workspace": request.workspace,
        "builder_effort": request.builder_effort,
        "timing_cache": str(request.timing_cache) if request.timing_cache else None,
        "plugin": _plugin(lowered, settled, folder),
        "pinned": pinned_nodes(lowered.path) if target_named(settled.target).weakly_typed else None,
        "carried": _digests(folder, component) if portable else None,
    }
    path = folder / f"{stem}{SUFFIX}"
    path.write_text(json.dumps(recipe, indent=1))
    return path


def _digests(folder: Path, component: str) -> dict[str, str]:
    """SHA-256 of a lowered graph and its weights, by file: what is copied to another machine may change on the way."""
    files = (folder / f"{component}.{kind}" for kind in ("onnx", "onnx.data", "lowered.data"))
    return {file.name: sha256_file(file) for file in files if file.is_file()}


def quantized_weights(path: Path) -> dict[str, Any] | None:
    """How many matrices a lowered graph holds quantized, the type of their numbers and their bytes; None of none."""
    graph = load_graph(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    read = [
        stored[node.input[0]] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored
    ]
    if not read:
        return None
    bits = 4 if read[0].data_type == TensorProto.INT4 else 8
    return {
        "dtype": dtype_name(read[0].data_type),
        "layers": len(read),
        "bytes": sum(prod(tensor.dims) for tensor in read) * bits // 8,
    }


def kept_products(path: Path, patterns: Sequence[str]) -> dict[str, list[str]] | None:
    """The patterns of what a lowered graph keeps in float32; its products that are in it, by node; and those of them
    that have a stored operand. None where nothing was to be kept."""
    if not patterns:
        return None
    graph = type_graph(load_graph(path))
    found = [
        node
        for node in graph.nodes
        if (node.op_type in PRODUCTS or node.domain == DOMAIN) and graph.types[node.output[0]].dtype == "float32"
    ]
    stored = [node.name for node in found if not graph.static.isdisjoint(node.input)]
    return {"patterns": [*patterns], "nodes": [node.name for node in found], "stored": stored}


def pinned_nodes(path: Path) -> dict[str, list[str]]:
    """What a weakly typed network of a lowered graph must be pinned to (`weak_typing.py`). Of a float32 graph that is
    nothing: no other type is allowed then."""
    model = load_graph(path)
    weights = [tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    graph = type_graph(model)
    made = {node.name: graph.types[node.output[0]].dtype for node in graph.nodes}
    half = [
        node.name
        for node in graph.nodes
        if made[node.name] == "float16" and (node.op_type in PRODUCTS or node.domain == DOMAIN)
    ]
    if "float16" not in made.values():
        return {"float32": [], "float16": [], "constants": []}
    return {
        "float32": [name for name, kind in made.items() if kind == "float32"],
        "float16": half,
        "constants": weights,
    }


def _plugin(lowered: Lowered, settled: Settled, folder: Path) -> Mapping[str, Any] | None:
    """What an engine needs of the plugin; a library that is here is copied, and without one who builds gives it."""
    if lowered.lowering != "plugin":
        return None
    left = {node.op_type for node in load_graph(lowered.path).graph.node}
    info, library = settled.library, None
    if info:
        library = folder / "plugins" / info.path.name
        library.parent.mkdir(exist_ok=True)
        shutil.copyfile(info.path, library)
    return {
        "library": str(library.relative_to(folder)) if library else None,
        "sha256": info.sha256 if info else None,
        "build_id": info.build_id if info else None,
        "operators": sorted(left & {*(info.operators if info else OPERATORS)}),
        "embed": settled.request.embed_plugin,
    }
