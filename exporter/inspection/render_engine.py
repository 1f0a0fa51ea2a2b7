"""The report of an engine as tables on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..console import size, table
from .port_rows import dims, port_rows, without_layers

_NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_UNKNOWN = "not known: neither its bundle nor its recipe is here"


def print_engine(report: Mapping[str, Any]) -> None:
    """Print the report of one engine to standard output."""
    table(report["path"], ("engine", ""), _facts(report))
    table("", ("", "name", "type", "dims"), port_rows(report))
    rows = [
        (profile["name"], name, *(dims(shapes[key]) for key in ("min", "opt", "max")))
        for profile in report["profiles"]
        for name, shapes in without_layers(profile["shapes"])
    ]
    table("", ("profile", "input", "min", "opt", "max"), rows)
    by_count = sorted(report["layers_by_type"].items(), key=lambda entry: -sum(entry[1].values()))
    table("", ("layers", "count", "types"), [(kind, sum(types.values()), _counts(types)) for kind, types in by_count])


def print_engines(reports: Sequence[Mapping[str, Any]]) -> None:
    """Print one line for each engine of a bundle."""
    columns = ("engine", "precision", "lowering", "TensorRT", "GPU", "size", "layers", "memory sites", "products")
    rows = [
        (
            report["component"],
            report["precision"],
            report["lowering"],
            _version(report),
            _gpu(report["gpu"]),
            size(report["engine"]["size"]),
            report["layers"],
            len(report["memory_sites"]),
            _counts(report["products_by_precision"]),
        )
        for report in reports
    ]
    table("", columns, rows)


def _facts(report: Mapping[str, Any]) -> list[tuple[str, object]]:
    weights = ", ".join(f"{kind} {size(count)}" for kind, count in report["product_weight_bytes"].items())
    facts: list[tuple[str, object]] = [
        ("component", report["component"] or _UNKNOWN),
        ("precision", report["precision"] or _UNKNOWN),
        ("lowering", report["lowering"] or _UNKNOWN),
        ("target", f"{report['target'] or 'not known'}, built with {_version(report)}"),
        ("GPU", _gpu(report["gpu"])),
        ("size", _sizes(report)),
        ("layers", f"{report['layers']} of all profiles, from {_SOURCES[report['read_from']]}"),
        ("products and convolutions", _counts(report["products_by_precision"]) or "not known from the engine alone"),
        ("their weights", weights or "none"),
        ("memory sites", len(report["memory_sites"])),
        ("plugin layers", f"{len(report['plugin_layers'])} of all profiles"),
    ]
    if plugin := report["plugin"]:
        kept = "embedded" if plugin["embedded"] else "loaded from the library"
        facts.append(("plugin", f"{', '.join(plugin['operators'])}, build {plugin['build_id']}, {kept}"))
    if cache := report["cache"]:
        facts.append(("cache", f"{cache['kind']}, {cache['layers']} layers, {cache['capacity']} columns"))
    if copies := report["cache_copies"]:
        facts.append(("copies of the cache", ", ".join(f"{name} {len(layers)}" for name, layers in copies.items())))
    if seconds := report["seconds"]:
        facts.append(("build", ", ".join(f"{stage} {time:.1f} s" for stage, time in seconds.items())))
    return facts


_SOURCES = {"inspector": "the engine", "log": "the log of its build, which had no GPU to load it"}


def _version(report: Mapping[str, Any]) -> str:
    return f"{_NAMES[report['flavor']]} {report['tensorrt']}"


def _gpu(gpu: Mapping[str, Any] | None) -> str:
    return f"{gpu['name']} (sm_{gpu['sm']}), driver for CUDA {gpu['driver']}" if gpu else "any: built without one"


def _sizes(report: Mapping[str, Any]) -> str:
    activation = report["activation"]
    return size(report["engine"]["size"]) + (f", and {size(activation)} for activations" if activation else "")


def _counts(types: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in types.items())
