"""What `inspect --flops` shows: the multiply-accumulates of every graph, alone or beside those of deep prompts."""

from collections.abc import Mapping
from typing import Any

from ..console import table
from ..errors import InputError


def costs_of(report: Mapping[str, Any], beside_deep_prompts: bool = False) -> list[dict[str, Any]]:
    """The `cost` of every graph in a report of `inspect_path`, with its component and precision (of a single graph:
    its file's). Raises InputError for an engine, or where no graph has prompts that deep prompts could stand in for.
    """
    if report["kind"] == "engine":
        raise InputError(f"{report['path']} is an engine: MACs are counted in graphs. Inspect its bundle.")
    graphs = (
        [(report["file"], report["precision"], report)]
        if report["kind"] == "graph"
        else [
            (name, precision, graph)
            for name, component in report["components"].items()
            for precision, graph in component["graphs"].items()
        ]
    )
    costs = [{"graph": name, "precision": precision, **graph["cost"]} for name, precision, graph in graphs]
    if beside_deep_prompts and not any(cost["deep_prompt"] for cost in costs):
        raise InputError(f"{report['path']} has no prompts of APT: there is nothing to compare with deep prompts.")
    return costs


def print_flops(path: str, costs: list[dict[str, Any]], beside_deep_prompts: bool) -> None:
    """Print a line for each graph; what was not counted is named below."""
    columns = ["graph", "at", "GMACs", "GFLOPs", "memory adds", "of the rest"]
    if beside_deep_prompts:
        columns += ["deep prompts would add", "saved"]
    table(path, columns, [_row(cost)[: len(columns)] for cost in costs])
    if uncounted := [(cost["graph"], ", ".join(cost["uncounted"])) for cost in costs if cost["uncounted"]]:
        table("", ("graph", "not counted"), uncounted)


def _row(cost: Mapping[str, Any]) -> list[str]:
    memory, deep = cost["memory"] or {}, cost["deep_prompt"] or {}
    return [
        f"{cost['graph']}, {cost['precision']}",
        ", ".join(f"{name} {length}" for name, length in cost["setting"].items()),
        _giga(cost["macs"]),
        _giga(cost["flops"]),
        _giga(memory.get("macs")),
        _percent(memory.get("percent")),
        _giga(deep.get("macs")),
        _percent(deep.get("saved_percent")),
    ]


def _giga(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e9:.3f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f} %"
