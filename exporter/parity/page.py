"""What `check` and the demonstration found as pages, see `page_file`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..progress import Stage
from . import page_summary as summary
from .page_demo import Accuracy, AnsweredQuestion
from .page_file import page_environment, write_page
from .page_images import Thumbnail, thumbnail
from .page_plot import relative_l2_plot
from .report import Report
from .results import AnswerResult

MOST_ANSWERS = 64
MOST_PICTURES = 48
_TABLE_SIDE = 192
_GALLERY_SIDE = 320


@dataclass(frozen=True)
class Pictured:
    """Something that was answered, with its picture for the page; missing: it has one, which cannot be read."""

    item: Any
    picture: Thumbnail | None
    missing: bool


def require_packages() -> None:
    """Raise MissingPackage where a page could not be written, so that a long command can stop before its work."""
    page_environment()
    relative_l2_plot([], 1.0)


def write_check_page(report: Report, bundle: Bundle, path: Path) -> None:
    """Write what `check` found as one HTML file.

    Raises MissingPackage without the extra `report`, EnvironmentLack where path cannot be written; then nothing is
    left at path, or what was there before.
    """
    shown = summary.first_answers(report.answers, MOST_ANSWERS)
    _write(
        "page_check.html.j2",
        path,
        report,
        digest=bundle.manifest.get("digest"),
        sources=bundle.manifest.get("sources"),
        shown=_pictured(shown, _answer_image, _TABLE_SIDE),
    )


def write_demo_page(
    report: Report,
    stages: Sequence[Stage],
    answered: Sequence[AnsweredQuestion],
    path: Path,
    *,
    accuracy: Sequence[Accuracy],
    without_images: float,
    introduction: str,
) -> None:
    """Write a demonstration as one HTML file: what it took, how many answers were right, and the parity check.

    accuracy has the row over all questions first. without_images is the share of right answers to the same questions
    without their pictures. introduction is a plain text that says what was exported and asked. Raises what
    `write_check_page` raises.
    """
    wrong = [question for question in answered[MOST_PICTURES:] if not question.correct]
    _write(
        "page_demo.html.j2",
        path,
        report,
        introduction=introduction,
        without_images=without_images,
        stages=stages,
        overall=accuracy[0],
        accuracy=accuracy,
        answered=answered,
        gallery=_pictured(answered[:MOST_PICTURES], _question_image, _GALLERY_SIDE),
        wrong=wrong,
        wrong_gallery=_pictured(wrong[:MOST_PICTURES], _question_image, _GALLERY_SIDE),
    )


def _write(template: str, path: Path, report: Report, **values: Any) -> None:
    environment = page_environment()
    from markupsafe import Markup

    write_page(
        environment,
        template,
        path,
        report=report,
        name=Path(report.bundle).name or "bundle",
        headline=summary.headline(report),
        worst=summary.worst(report.outputs) if report.outputs else None,
        rows=summary.summarize(report.outputs, report.threshold),
        plot=Markup(relative_l2_plot(report.outputs, report.threshold.relative_l2)),  # escaped by matplotlib
        summary=summary,
        **values,
    )


def _answer_image(answer: AnswerResult) -> Path | None:
    return Path(answer.image) if answer.image else None


def _question_image(question: AnsweredQuestion) -> Path | None:
    return question.image


def _pictured(items: Sequence[Any], image_of: Callable[[Any], Path | None], side: int) -> list[Pictured]:
    made: dict[Path | None, Thumbnail | None] = {None: None}
    pictured = []
    for item in items:
        path = image_of(item)
        if path not in made:
            made[path] = thumbnail(path, side) if path else None
        pictured.append(Pictured(item, made[path], path is not None and made[path] is None))
    return pictured
