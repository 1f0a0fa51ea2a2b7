"""Relative L2 of every output and case beside the limit, as an SVG that follows the page's colours."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..packages import needing
from . import page_words as words
from .results import OutputResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 48
_INK, _MUTED, _LINE, _BAD, *_REFERENCES = (f"#00000{digit}" for digit in range(1, 8))
_PASSED, _FAILED = "o", "X"


@dataclass
class Row:
    """A line of the plot: a heading (no results), a case, or an output with all of its cases."""

    label: str
    heading: bool = False
    results: list[OutputResult] = field(default_factory=list)


def plot_rows(results: Sequence[OutputResult]) -> list[Row]:
    """A heading per output with a row per case; where those would be too many, a row per output."""
    groups: dict[str, dict[str, list[OutputResult]]] = {}
    for result in results:
        cases = groups.setdefault(f"{result.component} {result.output}", {})
        cases.setdefault(result.case, []).append(result)
    if len(groups) + sum(len(cases) for cases in groups.values()) > MOST_ROWS:
        return [Row(name, results=[r for case in cases.values() for r in case]) for name, cases in groups.items()]
    rows = []
    for name, cases in groups.items():
        rows.append(Row(name, heading=True))
        rows += [Row(case, results=found) for case, found in cases.items()]
    return rows


def relative_l2_plot(results: Sequence[OutputResult], limit: float) -> str:
    """An `<svg>` element without scripts or references to anything outside it; empty where there is no result.

    Colours are the page's CSS variables --plot-1 (text) to --plot-7. Raises MissingPackage without matplotlib.
    """
    with needing("report"):
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    if not results:
        return ""
    rows = plot_rows(results)
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "page",
        "text.parse_math": False,
        "text.usetex": False,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 10,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(10, 1.1 + 0.27 * len(rows)), layout="constrained")
        FigureCanvasSVG(figure)
        _draw(figure.add_subplot(), rows, limit)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True)
    return _inline(file.getvalue())


def _draw(axes: "Axes", rows: Sequence[Row], limit: float) -> None:
    results = [result for row in rows for result in row.results]
    known = [min(max(v, 1e-30), 1e30) for v in (r.distance.relative_l2 for r in results) if math.isfinite(v) and v]
    low = 10.0 ** math.floor(math.log10(min([*known, limit])) - 0.5)
    high = 10.0 ** math.ceil(math.log10(max([*known, limit])) + 0.7)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    references = list(dict.fromkeys(result.reference for result in results))
    for y, row in enumerate(rows):
        if not row.heading:
            axes.axhline(y, color=_LINE, linewidth=0.6, zorder=0)
        for result in row.results:
            index = references.index(result.reference)
            height = y + 0.2 * (index - (len(references) - 1) / 2)  # references lie beside each other
            colour = _REFERENCES[index % len(_REFERENCES)]
            _point(axes, result, height, colour, (low, high), named=len(row.results) == 1)
    _axes(axes, rows)
    axes.axvline(limit, color=_BAD, linewidth=1.4, linestyle=(0, (5, 3)))
    axes.annotate(
        f"limit {words.limit(limit)}", (limit, 1), xycoords=("data", "axes fraction"), xytext=(0, 4),
        textcoords="offset points", ha="center", color=_BAD,
    )  # fmt: skip
    if len(references) > 1:
        _legend(axes, references)


def _point(axes: "Axes", result: OutputResult, y: float, colour: str, ends: tuple[float, float], named: bool) -> None:
    value = result.distance.relative_l2
    # Zero has no place on a logarithmic axis and infinity on none: they stand at the ends and are named.
    x = min(max(value, ends[0]), ends[1]) if not math.isnan(value) else ends[1]
    marker, size = (_PASSED, 6) if result.passed else (_FAILED, 8)
    face = colour if result.passed else _BAD
    axes.plot(x, y, marker, color=face, markersize=size, markeredgewidth=0, clip_on=False, zorder=3)
    if named or not math.isfinite(value):
        left = x > math.sqrt(ends[0] * ends[1])
        axes.annotate(
            words.figure(value), (x, y), xytext=(-7 if left else 7, 0), textcoords="offset points",
            ha="right" if left else "left", va="center", color=_MUTED, fontsize=8.5,
        )  # fmt: skip


def _axes(axes: "Axes", rows: Sequence[Row]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yticks(range(len(rows)), [row.label if len(row.label) <= 60 else row.label[:59] + "…" for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(_INK)
        label.set_fontweight("bold" if row.heading else "normal")
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", length=0, labelcolor=_INK)
    axes.tick_params(axis="y", pad=10)
    axes.grid(axis="x", which="major", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("relative L2 difference from the reference (smaller is better)", color=_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _legend(axes: "Axes", references: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=_PASSED, color=_REFERENCES[i % len(_REFERENCES)], markeredgewidth=0,
               label=f"against {reference}")
        for i, reference in enumerate(references)
    ]  # fmt: skip
    axes.figure.legend(handles=handles, loc="outside upper left", frameon=False, labelcolor=_INK)


def _inline(svg: str) -> str:
    """What belongs into an HTML page of a whole SVG file: no prologue, metadata or namespaces, colours by variable."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", head)
    label = (
        "Dot plot of the relative L2 difference of every output and case; the same figures are in the table of cases"
    )
    return re.sub(r"#00000([1-7])\b", r"var(--plot-\1)", f'{head} role="img" aria-label="{label}">{rest}')
