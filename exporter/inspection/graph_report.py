"""What `inspect` says of one ONNX graph."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import onnx

from ..errors import InputError
from .costs import Bodies, Macs, count
from .deep_prompt import deep_prompt_macs, prompt_nodes
from .islands import HALF, find_islands
from .memory_sites import memory_macs, memory_nodes, site
from .nodes import operators_by_type
from .values import TypedGraph, default_size, dimension_names, dims_of, dtype_name, elements, load_graph, type_graph

_LARGEST = 5
# Initializers of these types are shapes, axes and indices.
_SHAPE_TYPES = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
_HALF_BYTES = ("INT4", "UINT4", "FLOAT4E2M1")
Report = dict[str, Any]


def dimensions(path: Path) -> list[str]:
    """The names of a graph's dynamic dimensions."""
    return dimension_names(load_graph(path))


def report_graph(path: Path, sizes: Mapping[str, int]) -> Report:
    """Everything `inspect` knows of an ONNX file; MACs are at `sizes` (and defaults) for its named dimensions."""
    model = load_graph(path)
    ports = {"inputs": _ports(_free_inputs(model)), "outputs": _ports(model.graph.output)}
    weights = _weights(model, path.parent)
    setting = {name: sizes.get(name, default_size(name)) for name in dimension_names(model)}
    graph = type_graph(model, setting)
    bodies = Bodies(graph)
    precision = _precision(model, weights)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "producer": model.producer_name,
        "precision": precision,
        **ports,
        "nodes": {
            "count": len(graph.nodes),
            "by_operator": operators_by_type(graph),
            "functions": [f"{f.domain}::{f.name}" for f in model.functions],
        },
        "weights": weights,
        "faults": _faults(model, weights),
        "memory": [asdict(site(node, graph)) for node in memory_nodes(graph)],
        "float32_islands": [asdict(i) for i in find_islands(graph, bodies)] if precision in HALF else [],
        "cost": _cost(graph, bodies, setting),
    }


def _free_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _ports(values: Any) -> list[Report]:
    return [{"name": v.name, "dtype": dtype_name(v.type.tensor_type.elem_type), "dims": dims_of(v)} for v in values]


def _weights(model: onnx.ModelProto, folder: Path) -> Report:
    sizes = [(_bytes(tensor), tensor) for tensor in model.graph.initializer]
    by_dtype: Counter[str] = Counter()
    for size, tensor in sizes:
        by_dtype[dtype_name(tensor.data_type)] += size
    largest = sorted(sizes, key=lambda entry: -entry[0])[:_LARGEST]
    files = dict.fromkeys(name for _, tensor in sizes if (name := _location(tensor)) is not None)
    return {
        "count": len(sizes),
        "parameters": sum(elements(tensor) for _, tensor in sizes if tensor.data_type not in _SHAPE_TYPES),
        "bytes": sum(size for size, _ in sizes),
        "bytes_by_dtype": dict(by_dtype.most_common()),
        "largest": [
            {"name": t.name, "dtype": dtype_name(t.data_type), "dims": list(t.dims), "bytes": size}
            for size, t in largest
        ],
        "external_files": [{"name": name, "bytes": _external_size(folder, name)} for name in files],
    }


def _faults(model: onnx.ModelProto, weights: Report) -> list[str]:
    """Why the weights beside the graph cannot be those that it reads."""
    found = []
    for file in weights["external_files"]:
        name, held = file["name"], file["bytes"]
        need = max(_end(tensor) for tensor in model.graph.initializer if _location(tensor) == name)
        if held is None:
            found.append(f"its weights {name} are not beside it")
        elif held < need:
            found.append(f"its weights {name} are cut short: {held:,} bytes of {need:,}")
    return found


def _location(tensor: onnx.TensorProto) -> str | None:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), None)


def _end(tensor: onnx.TensorProto) -> int:
    """Where the bytes of a tensor end in its file."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    try:
        return int(said.get("offset", 0)) + int(said.get("length", _bytes(tensor)))
    except ValueError as error:
        raise InputError(f"the graph is damaged: {tensor.name} has no place in its file ({error}).") from error


def _bytes(tensor: onnx.TensorProto) -> int:
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(value) for value in tensor.string_data)
    if tensor.data_type not in onnx.TensorProto.DataType.values():
        return 0
    if onnx.TensorProto.DataType.Name(tensor.data_type) in _HALF_BYTES:
        return (elements(tensor) + 1) // 2
    return elements(tensor) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _external_size(folder: Path, name: str) -> int | None:
    """The size of a weights file, or None where it is missing or outside the graph's folder."""
    pure = PurePosixPath(name)
    path = folder / pure
    return path.stat().st_size if not pure.is_absolute() and ".." not in pure.parts and path.is_file() else None


def _precision(model: onnx.ModelProto, weights: Report) -> str:
    """The exporter's own note, else the type of most floating weight bytes."""
    noted = {entry.key: entry.value for entry in model.metadata_props}.get("precision", "")
    known = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    floating = [dtype for dtype in weights["bytes_by_dtype"] if "float" in dtype]
    return known.get(noted) or (floating[0] if floating else "float32")


def _cost(graph: TypedGraph, bodies: Bodies, setting: Mapping[str, int]) -> Report:
    nodes, prompts = memory_nodes(graph), prompt_nodes(graph)
    host = count(graph, bodies, skip=frozenset(node.output[0] for node in nodes))
    memory = memory_macs(nodes, graph, bodies)
    total = host + memory
    return {
        "setting": dict(setting),
        "macs": total.total,
        "flops": 2 * total.total,
        "macs_with_weights": total.weights,
        "macs_between_activations": total.activations,
        "memory": _memory_cost(host, memory) if nodes else None,
        "deep_prompt": _deep_prompt_cost(deep_prompt_macs(prompts, graph), memory) if prompts else None,
        "uncounted": total.uncounted,
    }


def _memory_cost(host: Macs, memory: Macs) -> Report:
    """The memory's part, in MACs and in percent of the graph without it (None where that is 0)."""

    def percent(macs: int) -> float | None:
        return 100 * macs / host.total if host.total else None

    return {
        "macs": memory.total,
        "flops": 2 * memory.total,
        "table_macs": memory.weights,
        "visual_macs": memory.activations,
        "percent": percent(memory.total),
        "table_percent": percent(memory.weights),
        "visual_percent": percent(memory.activations),
    }


def _deep_prompt_cost(deep: Macs, memory: Macs) -> Report:
    """What deep prompts would add, and how many percent of that APT's prompts save."""
    saved = 100 * (1 - memory.total / deep.total) if deep.total else None
    return {"macs": deep.total, "flops": 2 * deep.total, "saved_percent": saved, "uncounted": deep.uncounted}
