"""This bench beside another: a second bundle that was measured with it, or an earlier report."""

from collections.abc import Iterable, Mapping
from typing import Any

from .loads import Load
from .report import BenchReport, Compared, Result

Medians = dict[tuple[str, Load], float]


def compare_bundles(report: BenchReport, own: str, other: str) -> None:
    """Fill `report.compared` from its own results: those of the bundle `own` beside those of `other`."""
    bundles = {lane["name"]: lane["bundle"] for lane in report.lanes}
    here, there = (
        medians(report.lanes, (result for result in report.results if bundles[result.lane] == bundle))
        for bundle in (own, other)
    )
    report.compared_with, report.compared = other, _pairs(here, there)


def compare_report(report: BenchReport, earlier: BenchReport, name: str) -> None:
    """Fill `report.compared` from an earlier report, with notes on what else differs between the two."""
    here = medians(report.lanes, report.results)
    report.compared_with, report.compared = name, _pairs(here, medians(earlier.lanes, earlier.results))
    if unmatched := len(here) - len(report.compared):
        report.notes.append(f"{unmatched} of {len(here)} measurements have no counterpart in {name}")
    if differing := _differing(report.machine, earlier.machine):
        report.notes.append(f"{name} is from another machine or other versions: {', '.join(differing)}")
    now, then = ({lane["backend"]: lane["runs"] for lane in each.lanes} for each in (report, earlier))
    for backend in now.keys() & then.keys():
        if now[backend] != then[backend]:
            report.notes.append(f"{backend} ran otherwise in {name}: {then[backend]}; now {now[backend]}")


def medians(lanes: Iterable[Mapping[str, Any]], results: Iterable[Result]) -> Medians:
    """The medians of results, by backend and load; of several lanes with the same backend, the first one's."""
    backends = {lane["name"]: lane["backend"] for lane in lanes}
    found: Medians = {}
    for result in results:
        found.setdefault((backends[result.lane], result.load), result.figures.median)
    return found


def _pairs(here: Medians, other: Medians) -> list[Compared]:
    return [Compared(*key, here[key], other[key]) for key in here if key in other]


def _differing(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    names = [name for name in {**then, **now} if now.get(name) != then.get(name)]
    return [f"{name} {then.get(name, 'none')}, now {now.get(name, 'none')}" for name in names]
