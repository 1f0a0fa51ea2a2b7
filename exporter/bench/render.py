"""A bench report, or the plan of one, as tables on a terminal."""

from collections.abc import Mapping
from typing import Any

from ..console import table
from .report import BenchReport, Result

_PARTS = {"gpu": "GPU", "h2d": "to GPU", "d2h": "from GPU", "host": "host"}


def print_bench(report: BenchReport) -> None:
    """Print every measurement, times in milliseconds, and the comparison where there is one."""
    tails = [name for name in (report.results[0].figures.percentiles if report.results else {}) if name != "p50"]
    parts = [name for name in _PARTS if any(result.figures.parts for result in report.results)]
    times = ("first", "min", "median", "mean", *tails, *(_PARTS[name] for name in parts))
    columns = ("", "load", "on", *times, "per second", "speed-up")
    rows = [
        (
            result.load.mode,
            result.load.title,
            result.lane,
            *map(milliseconds, (result.figures.first, result.figures.lowest, result.figures.median)),
            milliseconds(result.figures.mean),
            *(milliseconds(result.figures.percentiles.get(name)) for name in tails),
            *(milliseconds((result.figures.parts or {}).get(name)) for name in parts),
            f"{rate(result.per_second)} {result.load.units}",
            speedup(result),
        )
        for result in report.results
    ]
    for lane in report.lanes:
        print(f"{lane['name']}: {lane['runs']}")
    table("milliseconds", columns, rows)
    if report.compared_with:
        columns = ("", "load", "on", "there", "here", "times as fast here")
        compared = [
            (one.load.mode, one.load.title, one.backend, *map(milliseconds, (one.other, one.here)), f"{one.ratio:.2f}")
            for one in report.compared
        ]
        table(f"compared with {report.compared_with} (medians, milliseconds)", columns, compared)


def print_plan(plan: Mapping[str, Any]) -> None:
    """Print what `preview_bench` gave."""
    table(plan["bundle"], ("measured on", "precision"), [(lane["name"], lane["precision"]) for lane in plan["lanes"]])
    table("", ("in turns, on each of them",), [(load,) for load in plan["loads"]])


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds, three digits; empty where they are not known."""
    if seconds is None:
        return ""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def speedup(result: Result) -> str:
    """How many times as fast as the first lane; where both are on a GPU, the GPU's own time beside it."""
    if result.speedup is None:
        return ""
    return f"{result.speedup:.2f}" + (f" (GPU {result.gpu_speedup:.2f})" if result.gpu_speedup else "")


def rate(per_second: float) -> str:
    """A number of things per second, three digits of it at least."""
    return f"{per_second:#.3g}" if per_second < 100 else f"{per_second:,.0f}"
