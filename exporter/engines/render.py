"""What `memvp-export trt` shows: a plan, and the engines that were entered."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..console import size, table


def print_plan(plan: Mapping[str, Any]) -> None:
    """The dry run: `plan_engines`."""
    rows = [
        (part["name"], size(part["bytes"]), part["lowering"], part["why"], "yes" if part["traced"] else "to be traced")
        for part in plan["components"]
    ]
    cache = f"cache {plan['cache']}" if plan["cache"] else "no cache"
    columns = ("component", "weights", "lowering", "because", f"{plan['precision']} graph")
    table(f"{plan['target']}, {plan['precision']}, {cache}", columns, rows)


def print_engines(entries: Sequence[Mapping[str, Any]]) -> None:
    """The entries of engines in the manifest."""
    rows = [
        (
            entry["component"],
            entry["precision"],
            entry["lowering"],
            entry["cache"]["kind"] if entry["cache"] else "",
            ", ".join(profile["name"] for profile in entry["profiles"]),
            f"{sum(entry['seconds'].values()):.1f} s",
            entry["file"],
        )
        for entry in entries
    ]
    columns = ("component", "precision", "lowering", "cache", "profiles", "built in", "file")
    table(f"{entries[0]['target']} {entries[0]['tensorrt']}", columns, rows)
