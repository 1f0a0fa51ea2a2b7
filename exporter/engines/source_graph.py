"""The published graph that an engine is built from, by the digests that its recipe and its entry keep."""

from collections.abc import Mapping
from typing import Any

from ..bundle import Bundle
from ..errors import InputError


def graph_digests(bundle: Bundle, component: str, precision: str) -> dict[str, str]:
    """SHA-256 of a component's published graph and its weights, by their names in the bundle."""
    entry = bundle.manifest["components"].get(component, {"graphs": {}})["graphs"].get(precision)
    if entry is None:
        raise InputError(f"{bundle.root} has no {precision} graph of {component}.")
    files = bundle.manifest["files"]
    return {name: files[name]["sha256"] for name in (entry["file"], f"{entry['file']}.data") if name in files}


def is_of_its_graph(entry: Mapping[str, Any], bundle: Bundle) -> bool:
    """Whether the graph that an engine was built from is still the bundle's; no session runs it otherwise."""
    graphs = bundle.manifest["components"].get(entry["component"], {"graphs": {}})["graphs"]
    if entry["precision"] not in graphs:
        return False
    return bool(entry.get("source") == graph_digests(bundle, entry["component"], entry["precision"]))
