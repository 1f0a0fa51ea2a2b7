"""Values in the parts' JSON, as tables and targets ask for them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Behind the name of a load that was launched as a CUDA graph.
GRAPH = ", graph"


def found_in(results: Path) -> dict[str, Any]:
    """What the parts found, by part; of kernels' speeds also the cases before one where the part was ended."""
    found: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    for path in sorted(results.glob("kernels/kernel-speed-*.json")):
        measured = json.loads(path.read_text())
        found.setdefault(path.stem, {"dry_run": measured["dry_run"]}).setdefault("measured", measured)
    return found


def variants_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that build engines."""
    return {name: one for name, one in found.items() if "build" in one}


def speeds(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What benchmarks/kernel_speed.py wrote, by type."""
    return [one["measured"] for name, one in found.items() if name.startswith("kernel-speed") and "measured" in one]


def medians(variant: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
    """By load (in words, and its stage) and lane, the median milliseconds of a call on the wall, and those between
    events of its stream, 0 where they are not known. Beside PyTorch there are the engines, as they are or as CUDA
    graphs."""
    loads: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for way, suffix in (("bench", ""), ("graphs", GRAPH)):
        for result in variant.get(way, {}).get("json", {}).get("results", []):
            load, figures = result["load"], result["figures"]
            gpu = 1e3 * (figures.get("parts") or {}).get("gpu", 0.0)
            lanes = loads.setdefault((_title(load) + suffix, load["stage"]), {})
            lanes[result["lane"]] = 1e3 * figures["median"], gpu
    return loads


def runs_of(variant: Mapping[str, Any]) -> Iterator[tuple[str, float, float, str]]:
    """Of an engine that only another Python can run, each load, the milliseconds between events of
    PyTorch eager (0 where they are not known) and of the engine, and how far it is from ONNX Runtime."""
    eager = {title: lanes["torch"][1] for (title, _), lanes in medians(variant).items() if "torch" in lanes}
    for run, taken in variant.get("runs", {}).items():
        if "milliseconds" not in taken:
            yield run, 0.0, 0.0, taken["failed"]
            continue
        title = _title(taken["load"])
        yield title, eager.get(title, 0.0), taken["milliseconds"], f"{taken['difference']:.2g}"
        yield title + GRAPH, eager.get(title, 0.0), taken["in_graph"] or 0.0, taken["graph_failed"] or ""


def _title(load: Mapping[str, Any]) -> str:
    return f"{load['stage']} B={load['batch']} columns={load['columns']} past={load['past']}"


def parity(variant: Mapping[str, Any], component: str, profile: str) -> str:
    """What `check` said of an engine; of one that only another Python can run, how far it is from ONNX Runtime."""
    if "runs" in variant:
        run = variant["runs"].get(f"{component} {profile}", {})
        return (
            f"{run['difference']:.2g} of ONNX Runtime's" if "difference" in run else str(run.get("failed", "not run"))
        )
    report = variant.get("check", {}).get("json")
    if not report:
        return "not run"
    figures = [one["distance"]["relative_l2"] for one in report["outputs"] if one["component"] == component]
    failed = any(not one["passed"] for one in report["outputs"] if one["component"] == component)
    # What is not finite is null.
    worst = "not finite" if None in figures else f"{max(figures):.1e}" if figures else "not compared"
    return f"{'FAILED' if failed else 'passed'}, worst {worst}"
