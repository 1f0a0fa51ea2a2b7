"""What is inside a bundle, a graph or an engine, read without PyTorch, without TensorRT and without loading weights."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..errors import InputError
from .engine_report import SUFFIX, report_engine, report_engines
from .graph_report import dimensions, report_graph
from .values import default_size

Limits = tuple[int, int]
# Shapes are inferred with the values of positions and masks, which are made for that.
_LONGEST = 1 << 20
_GIVEN = ("precision", "schema", "options", "preprocessing", "tokenizer", "generation", "labels", "memory", "samples")


def inspect_path(path: Path | str, *, shapes: Mapping[str, int] | None = None, verify: bool = False) -> dict[str, Any]:
    """Report on a bundle folder, an ONNX file or an engine (its file or its record), as plain JSON data.

    shapes sets lengths of named dimensions for the MAC counts of graphs, such as {"batch": 8, "sequence": 512}; by
    default a past is empty, a sequence 64 long (or what a bundle's graph takes) and everything else 1. verify compares
    the SHA-256 of a bundle's files, or of an engine, with those that were written down.

    "kind" in the report is "bundle", "graph" or "engine"; sizes are in bytes. "faults" says what the weights beside a
    graph lack, "missing" which files a bundle has lost that can be made again. Raises InputError for any other path, a
    damaged file, a dimension that no graph has, or a length that it does not take; EnvironmentLack for an engine that
    has lost its record, where it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_dir():
        return _report_bundle(Bundle.open(path, verify), shapes or {})
    if not path.is_file():
        raise InputError(f"{path} is no regular file.")
    if path.suffix == ".onnx":
        if verify:
            raise InputError(f"{path} has no digest of its own: --verify takes its bundle.")
        _check_shapes(shapes or {}, {"the graph": _any_length(path)})
        return {"kind": "graph", "path": str(path), **report_graph(path, shapes or {})}
    if path.suffix in (SUFFIX, ".json"):
        if shapes:
            raise InputError(f"{path} is built for its profiles' shapes: --shape is for graphs.")
        return {"kind": "engine", **report_engine(path, verify)}
    raise InputError(f"{path} cannot be inspected: give a bundle folder, an .onnx file, or an engine or its record.")


def _any_length(path: Path) -> dict[str, Limits]:
    # Only what may be empty by default may be 0.
    return {name: (min(1, default_size(name)), _LONGEST) for name in dimensions(path)}


def _check_shapes(shapes: Mapping[str, int], taken: Mapping[str, Mapping[str, Limits]]) -> None:
    known = list(dict.fromkeys(name for limits in taken.values() for name in limits))
    if unknown := [name for name in shapes if name not in known]:
        raise InputError(
            f"no input has a dimension {', '.join(map(repr, unknown))}; "
            f"the dimensions are {', '.join(known) or 'all fixed'}."
        )
    for who, limits in taken.items():
        for name in shapes.keys() & limits.keys():
            (low, high), size = limits[name], shapes[name]
            if not isinstance(size, int) or not low <= size <= high:
                raise InputError(f"{name} is {size}; {who} takes whole numbers from {low} to {high:,}.")


def _report_bundle(bundle: Bundle, shapes: Mapping[str, int]) -> dict[str, Any]:
    manifest = bundle.manifest
    components = manifest["components"]
    files = {
        (name, precision): bundle.graph(name, precision)
        for name, component in components.items()
        for precision in component["graphs"]
    }
    limits: dict[str, dict[str, Limits]] = {name: {} for name in components}
    for (name, _), path in files.items():
        ranges = components[name]["ranges"].items()
        limits[name] |= _any_length(path) | {dim: (low, high) for dim, (low, high) in ranges}
    _check_shapes(shapes, limits)
    return {
        "kind": "bundle",
        "path": str(bundle.root),
        "family": manifest["family"],
        "task": manifest["task"],
        **{key: manifest.get(key) for key in _GIVEN},
        "bytes": bundle.size,
        "files": len(manifest["files"]),
        "bytes_by_folder": _bytes_by_folder(manifest["files"]),
        "sample_files": [name for name in manifest["files"] if name.startswith("samples/")],
        "sources": manifest.get("sources", []),
        "missing": bundle.missing,
        "engines": report_engines(bundle),
        "components": {
            name: {
                **{key: component.get(key) for key in ("inputs", "outputs", "ranges", "cache")},
                "graphs": {
                    precision: report_graph(files[name, precision], _usual(limits[name]) | dict(shapes))
                    for precision in component["graphs"]
                },
            }
            for name, component in components.items()
        },
    }


def _usual(limits: Mapping[str, Limits]) -> dict[str, int]:
    """The default lengths, or the nearest that are taken."""
    return {name: min(max(low, default_size(name)), high) for name, (low, high) in limits.items()}


def _bytes_by_folder(files: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for name, entry in files.items():
        sizes[name.split("/", 1)[0] if "/" in name else "."] += entry["size"]
    return dict(sizes.most_common())
