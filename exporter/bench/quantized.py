"""Whether a smaller type pays: a quantized lane beside the plain one of the same backend."""

from collections.abc import Mapping
from typing import Any

from ..precisions import PLAIN
from .report import BenchReport


def slower_notes(report: BenchReport) -> list[str]:
    """For every quantized lane one note that names the loads at which it is not faster than the plain lane that was
    measured beside it, on the same bundle and backend."""
    return [
        note
        for lane in report.lanes
        if lane["precision"] not in PLAIN
        for other in report.lanes
        if other["precision"] in PLAIN and _same_place(lane, other)
        for note in _slower(report, lane, other)
    ]


def _same_place(lane: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (lane["bundle"], lane["backend"]) == (other["bundle"], other["backend"])


def _slower(report: BenchReport, lane: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    medians, others = (
        {result.load: result.figures.median for result in report.results if result.lane == name}
        for name in (lane["name"], other["name"])
    )
    both = [load for load in medians if load in others]
    losing = [
        f"{load.mode}: {load.title} ({1e3 * medians[load]:.3g} ms against {1e3 * others[load]:.3g})"
        for load in both
        if medians[load] >= others[load]
    ]
    if not losing:
        return []
    return [
        f"{lane['name']} is not faster than {other['name']} at {len(losing)} of {len(both)} loads: {'; '.join(losing)}"
    ]
