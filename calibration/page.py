"""A calibration's report as a single HTML page that needs nothing else."""

from pathlib import Path

from ..exporter.bundle import Bundle
from ..exporter.parity.page_file import page_environment, write_page
from .report import Report

MOST_BARS = 40


def write_calibration_page(report: Report, bundle: Bundle, path: Path) -> None:
    """Write what `calibrate` found as one HTML file: the damage each layer does alone, as a plot, and every layer with
    its range, SQNR and reason. Raises MissingPackage without the extra `report`, EnvironmentLack where path cannot be
    written."""
    ranked = [row for row in report.layers if row.alone is not None]
    write_page(
        page_environment(Path(__file__).parent),
        "page_calibration.html.j2",
        path,
        report=report,
        name=bundle.root.resolve().name,
        ranked=ranked[:MOST_BARS],
        hidden=len(ranked[MOST_BARS:]),
        unmeasured=sum(row.reason is None and row.alone is None for row in report.layers),
        largest=max((row.alone or 0.0 for row in ranked), default=0.0) or 1.0,
    )
