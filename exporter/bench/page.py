"""A bench report as a single HTML page that needs nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ..parity.page_file import page_environment, write_page
from .figures import DRIFT_LIMIT, SPREAD_LIMIT
from .loads import Load
from .options import FEWEST_CALLS
from .render import milliseconds, rate, speedup
from .report import BenchReport, Result
from .rounds import TURN

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Group:
    """One load on all lanes; longest: the time that bars are drawn against, seconds."""

    load: Load
    results: list[Result]
    longest: float


def require_packages() -> None:
    """Raise MissingPackage where a page could not be written, so that a long command can stop before its work."""
    _environment()


def write_bench_page(report: BenchReport, path: Path) -> None:
    """Write what `bench` found as one HTML file. Raises MissingPackage without the extra `report`, EnvironmentLack
    where path cannot be written; then nothing is left at path, or what was there before."""
    write_page(
        _environment(),
        "page_bench.html.j2",
        path,
        report=report,
        name=Path(report.lanes[0]["bundle"]).name if report.lanes else "bundle",
        groups=list(groups(report)),
        limits={"spread": SPREAD_LIMIT, "drift": DRIFT_LIMIT, "calls": FEWEST_CALLS, "turn": TURN},
    )


def groups(report: BenchReport) -> Iterator[Group]:
    """The results by load, in their order."""
    for load, results in groupby(report.results, key=lambda result: result.load):
        found = list(results)
        tails = [value for each in found for value in each.figures.percentiles.values() if value is not None]
        yield Group(load, found, max([*tails, *(each.figures.median for each in found)]))


def _environment() -> "Environment":
    return page_environment(Path(__file__).parent, milliseconds=milliseconds, speedup=speedup, rate=rate)
