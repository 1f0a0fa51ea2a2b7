"""A calibration's report as a single HTML page that needs nothing else."""

from datetime import UTC, datetime
from pathlib import Path

from ..exporter.bundle import Bundle
from ..exporter.errors import MissingPackage
from ..exporter.parity.page import page_environment
from ..exporter.whole_file import whole_file
from .report import Report

MOST_BARS = 40


def write_calibration_page(report: Report, bundle: Bundle, path: Path) -> None:
    """Write what `calibrate` found as one HTML file: the damage each layer does alone, as a plot, and every layer with
    its range, SQNR and reason. Raises MissingPackage without the extra `report`, EnvironmentLack where path cannot be
    written."""
    environment = page_environment()
    try:
        from jinja2 import ChoiceLoader, FileSystemLoader
    except ImportError as error:
        raise MissingPackage("jinja2", "report") from error
    own = FileSystemLoader(Path(__file__).parent)
    environment.loader = ChoiceLoader([own, environment.loader] if environment.loader else [own])
    ranked = [row for row in report.layers if row.alone is not None]
    text = environment.get_template("page_calibration.html.j2").render(
        report=report,
        name=bundle.root.resolve().name,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        ranked=ranked[:MOST_BARS],
        hidden=len(ranked[MOST_BARS:]),
        unmeasured=sum(row.reason is None and row.alone is None for row in report.layers),
        largest=max((row.alone or 0.0 for row in ranked), default=0.0) or 1.0,
    )
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "replace"))
