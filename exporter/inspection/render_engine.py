"""The report of an engine as tables on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..console import size, table
from ..engines.preflight import tensorrt_name
from .port_rows import dims, port_rows, without_layers

_UNKNOWN = "not known: neither its bundle nor its recipe is here"


def print_engine(report: Mapping[str, Any]) -> None:
    """Print the report of one engine to standard output."""
    table(report["path"], ("engine", ""), _facts(report))
    table("", ("", "name", "type", "dims"), port_rows(_with_ranges(report)))
    rows = [
        (profile["name"], name, *(dims(shapes[key]) for key in ("min", "opt", "max")))
        for profile in report["profiles"]
        for name, shapes in without_layers(profile["shapes"])
    ]
    table("", ("profile", "input", "min", "opt", "max"), rows)
    for name, part in report["by_profile"].items():
        by_count = sorted(part["layers_by_type"].items(), key=lambda entry: -sum(entry[1].values()))
        rows = [(kind, sum(types.values()), _counts(types)) for kind, types in by_count]
        table("", (f"layers of {name}", "count", "types"), rows)


def print_engines(reports: Sequence[Mapping[str, Any]]) -> None:
    """Print one line for each engine of a bundle."""
    columns = ("engine", "precision", "lowering", "TensorRT", "GPU", "size", "layers", "memory sites", "products")
    stale = [report["path"] for report in reports if report["stale"]]
    rows = [
        (
            report["component"],
            report["precision"],
            report["lowering"],
            _version(report),
            _gpu(report["gpu"]),
            size(report["engine"]["size"]),
            _each(report, "layers"),
            len(report["memory_sites"]),
            _counts(_first(report)["products_by_precision"]),
        )
        for report in reports
    ]
    table("", columns, rows)
    if stale:
        table("", ("stale engines", "why"), [(path, _STALE) for path in stale])


def _facts(report: Mapping[str, Any]) -> list[tuple[str, object]]:
    # Weights are held once.
    weights = ", ".join(f"{kind} {size(count)}" for kind, count in _first(report)["product_weight_bytes"].items())
    products = {name: _counts(part["products_by_precision"]) for name, part in report["by_profile"].items()}
    plugin_layers = {name: len(part["plugin_layers"]) for name, part in report["by_profile"].items()}
    facts: list[tuple[str, object]] = [
        ("component", report["component"] or _UNKNOWN),
        ("precision", report["precision"] or _UNKNOWN),
        ("lowering", report["lowering"] or _UNKNOWN),
        ("target", f"{report['target'] or 'not known'}, built with {_version(report)}"),
        ("GPU", _gpu(report["gpu"])),
        ("size", _sizes(report)),
        *([("stale", _STALE)] if report["stale"] else []),
        ("profiles", len(report["by_profile"])),
        ("layers", f"{_each(report, 'layers')}, from {_SOURCES[report['read_from']]}"),
        ("products and convolutions", _named(products) if any(products.values()) else _NOT_TOLD),
        ("their weights", weights or "none"),
        ("memory sites", len(report["memory_sites"])),
        ("plugin layers", _named(plugin_layers) if any(plugin_layers.values()) else "none"),
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


_STALE = "its graph was replaced since: it does not run, build it again with `memvp-export trt`"
_NOT_TOLD = "not known from the engine alone"
_SOURCES = {"inspector": "the engine", "log": "the log of its build, which had no GPU to load it"}


def _with_ranges(report: Mapping[str, Any]) -> dict[str, Any]:
    """The ports with the ranges of all profiles in place of dims that have no name; outputs have none."""
    limits = [profile["shapes"] for profile in report["profiles"]]

    def dim(name: str, axis: int, length: int | str) -> int | str:
        held = [(shapes[name]["min"][axis], shapes[name]["max"][axis]) for shapes in limits if name in shapes]
        if length != -1 or not held:
            return "dynamic" if length == -1 else length
        return f"{min(low for low, _ in held)} to {max(high for _, high in held)}"

    return {
        kind: [
            {**port, "dims": [dim(port["name"], axis, length) for axis, length in enumerate(port["dims"])]}
            for port in report[kind]
        ]
        for kind in ("inputs", "outputs")
    }


def _first(report: Mapping[str, Any]) -> Mapping[str, Any]:
    part: Mapping[str, Any] = next(iter(report["by_profile"].values()))
    return part


def _each(report: Mapping[str, Any], key: str) -> str:
    """What each profile has of it."""
    return _named({name: part[key] for name, part in report["by_profile"].items()})


def _named(figures: Mapping[str, object]) -> str:
    """The figures of all profiles, without a name where there is one alone."""
    if len(figures) == 1:
        return str(next(iter(figures.values())))
    return ", ".join(f"{name} {figure}" for name, figure in figures.items())


def _version(report: Mapping[str, Any]) -> str:
    return tensorrt_name(report["target"] or report["flavor"], report["flavor"], report["tensorrt"])


def _gpu(gpu: Mapping[str, Any] | None) -> str:
    return f"{gpu['name']} (sm_{gpu['sm']}), driver for CUDA {gpu['driver']}" if gpu else "any: built without one"


def _sizes(report: Mapping[str, Any]) -> str:
    activation = report["activation"]
    return size(report["engine"]["size"]) + (f", and {size(activation)} for activations" if activation else "")


def _counts(types: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in types.items())
