"""Short tables of what the parts of run_all.py found, and what they lacked."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def tables(results: Path) -> str:
    """Text with a table for kernels, engines, their latencies and the paper's claim, as far as their JSON is there."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    variants = {name: one for name, one in found.items() if "build" in one}
    blocks = [
        _lacks(found),
        _table("kernels, us", ("dtype", "B", "T", "form", "operator", "in its block"), _kernels(found)),
        _table(
            "engines",
            ("variant", "component", "profile", "layers", "plugin", "copies", "build s", "parity"),
            _engines(variants),
        ),
        _table("latency, ms", ("variant", "load", "torch", "tensorrt", "times"), _latencies(variants)),
        _table(
            "visual tokens in the input or in memory, ms, torch eager",
            ("B", "prefill input", "prefill memory", "times", "decode input", "decode memory", "times"),
            _paper(found.get("paper-latency", {})),
        ),
    ]
    dry = ["These are of a dry run: they mean nothing."] if any(one.get("dry_run") for one in found.values()) else []
    return "\n\n".join([*filter(None, blocks), *dry])


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [[str(cell) for cell in row] for row in (columns, *rows)]
    if len(lines) == 1:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([f"== {title}", *text])


def _lacks(found: dict[str, Any]) -> str:
    lines = [f"{name}: {one['lacks'].splitlines()[0]}" for name, one in found.items() if "lacks" in one]
    return "\n".join(["== not measured", *lines]) if lines else ""


def _kernels(found: dict[str, Any]) -> Iterable[Sequence[object]]:
    for measured in found.get("kernel-speed", {}).get("measured", []):
        for case in measured["cases"]:
            for form, times in case["operator_us"].items():
                block = case["block_us"][form]["median"]
                where = (measured["dtype"], case["batch"], case["tokens"])
                yield *where, form, f"{times['median']:.1f}", f"{block:.1f}"


def _engines(variants: dict[str, Any]) -> Iterable[Sequence[object]]:
    for name, one in variants.items():
        for component, engine in one.get("engines", {}).items():
            seconds = engine["seconds"]["build"] if engine["seconds"] else ""
            for profile, counts in engine["by_profile"].items():
                copies = len((engine["cache_copies"] or {}).get(profile, []))
                layers, plugin = counts["layers"], len(counts["plugin_layers"])
                yield name, component, profile, layers, plugin, copies, seconds, _parity(one, f"{component} {profile}")
        if "engines" not in one:
            yield name, "", "", "", "", "", "", one["build"]["said"]


def _parity(variant: dict[str, Any], run: str) -> str:
    """What `check` said of an engine; of one that only another Python can run, how far ONNX Runtime is from it."""
    if "runs" not in variant:
        return str(variant["check"]["said"])
    one = variant["runs"].get(run, {})
    return f"{one['difference']:.2g} of ONNX Runtime's" if "difference" in one else str(one.get("failed", "not run"))


def _latencies(variants: dict[str, Any]) -> Iterable[Sequence[object]]:
    for name, one in variants.items():
        loads: dict[str, dict[str, float]] = {}
        for result in one.get("bench", {}).get("json", {}).get("results", []):
            load = result["load"]
            title = f"{load['stage']} B={load['batch']} columns={load['columns']} past={load['past']}"
            loads.setdefault(title, {})[result["lane"]] = 1e3 * result["figures"]["median"]
        for title, ms in loads.items():
            if {"torch", "tensorrt"} <= ms.keys():
                yield name, title, f"{ms['torch']:.3f}", f"{ms['tensorrt']:.3f}", f"{ms['torch'] / ms['tensorrt']:.2f}"


def _paper(found: dict[str, Any]) -> Iterable[Sequence[object]]:
    for one in found.get("measured", []):
        cells: list[object] = [one["batch"]]
        for step in ("prefill", "decode"):
            wide, memory = one["ms"][f"input {step}"], one["ms"][f"memory {step}"]
            cells += [f"{wide:.2f}", f"{memory:.2f}", f"{wide / memory:.2f}"]
        yield cells
