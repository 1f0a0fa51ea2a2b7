"""Inputs and outputs as rows of a table, those of all layers on one line."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def port_rows(ports: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(input or output, name, type, dims) of each port in `inputs` and `outputs`."""
    rows = []
    for kind in ("inputs", "outputs"):
        for name, port in without_layers({port["name"]: port for port in ports[kind]}):
            rows.append((kind[:-1], name, port["dtype"], dims(port["dims"])))
    return rows


def without_layers(entries: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """The entries with {i} for the number in their names, the first of each such name alone and with its count."""
    shown = Counter(map(_layerless, entries))
    for name, entry in entries.items():
        pattern = _layerless(name)
        if pattern in shown:
            count = shown.pop(pattern)
            yield pattern + (f"  x{count}" if count > 1 else ""), entry


def dims(sizes: Iterable[object]) -> str:
    """[1, 64, sequence]"""
    return "[" + ", ".join(map(str, sizes)) + "]"


def _layerless(name: str) -> str:
    return ".".join("{i}" if part.isdigit() else part for part in name.split("."))
