"""The report of `inspect_path` as tables on a terminal."""

from collections.abc import Mapping
from typing import Any

from ..bundle import maker
from ..console import size, table
from .port_rows import port_rows
from .render_engine import print_engine, print_engines


def print_report(report: Mapping[str, Any]) -> None:
    """Print a report of any kind to standard output."""
    if report["kind"] == "graph":
        _print_graph(report["path"], report)
    elif report["kind"] == "engine":
        print_engine(report)
    else:
        _print_bundle(report)


def _print_bundle(report: Mapping[str, Any]) -> None:
    facts = [
        ("family", f"{report['family']}, task {report['task']}"),
        ("precision", report["precision"]),
        ("size", f"{size(report['bytes'])} in {report['files']} files"),
        ("golden samples", "yes" if report["samples"] else "none: `check` needs the source"),
        *((f"memory {key}", value) for key, value in (report["memory"] or {}).items() if key != "folded"),
        *((f"source {entry['key']}", f"{entry['file']}, {size(entry['size'])}") for entry in report["sources"]),
    ]
    table(report["path"], ("bundle", ""), facts)
    for name, component in report["components"].items():
        _print_ports(name, component)
        for precision, graph in component["graphs"].items():
            _print_graph(f"{name}, {precision}", graph)
    if report["engines"]:
        print_engines(report["engines"])
    if report["missing"]:
        table("", ("missing", "made again by"), [(name, maker(name)) for name in report["missing"]])


def _print_ports(name: str, component: Mapping[str, Any]) -> None:
    ranges = ", ".join(f"{dim} {low} to {high}" for dim, (low, high) in component["ranges"].items())
    table(f"{name}: {ranges}", ("", "name", "type", "dims"), port_rows(component))


def _print_graph(title: str, graph: Mapping[str, Any]) -> None:
    opsets = ", ".join(f"{domain or 'onnx'} {version}" for domain, version in graph["opset"].items())
    weights, cost = graph["weights"], graph["cost"]
    kinds = ", ".join(f"{kind} {size(count)}" for kind, count in weights["bytes_by_dtype"].items())
    setting = ", ".join(f"{name} {length}" for name, length in cost["setting"].items())
    facts = [
        ("opset", opsets),
        ("weights", f"{weights['count']} tensors, {weights['parameters']:,} parameters: {kinds}"),
        ("nodes", f"{graph['nodes']['count']}"),
        (f"MACs, FLOPs ({setting})", _cost(cost)),
    ]
    if cost["memory"]:
        memory = cost["memory"]
        facts.append(("added by the memory", _cost(memory) + _shares(memory)))
    if cost["uncounted"]:
        facts.append(("not counted", ", ".join(map(str, cost["uncounted"]))))
    table(title, ("graph", ""), facts)
    _print_operators(graph)
    if graph["memory"]:
        columns = ("memory site", "v", "p", "d", "type", "activation", "scale")
        keys = ("name", "visual_rows", "table_rows", "width", "dtype", "activation", "scale")
        table("", columns, [[_short(site.get(key)) for key in keys] for site in graph["memory"]])
    if graph["float32_islands"]:
        rows = [(island["reason"], island["nodes"], island["why"]) for island in graph["float32_islands"]]
        table("", ("stays float32", "nodes", "why"), rows)


def _cost(cost: Mapping[str, Any]) -> str:
    return f"{cost['macs'] / 1e9:.3f} GMACs, {cost['flops'] / 1e9:.3f} GFLOPs"


def _shares(memory: Mapping[str, Any]) -> str:
    """What the memory adds in percent of the host, where the graph has one."""
    if memory["percent"] is None:
        return ""
    tables, visual = memory["table_percent"], memory["visual_percent"]
    return f", {memory['percent']:.2f} % (tables {tables:.2f} %, visual rows {visual:.2f} %)"


def _print_operators(graph: Mapping[str, Any]) -> None:
    rows = [
        (operator, sum(types.values()), ", ".join(f"{kind} {count}" for kind, count in types.items()))
        for operator, types in sorted(graph["nodes"]["by_operator"].items(), key=lambda entry: -sum(entry[1].values()))
    ]
    table("", ("operator", "nodes", "computes in"), rows)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
