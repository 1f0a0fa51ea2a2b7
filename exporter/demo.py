"""The whole way on the model that ships with the project: export, check, answer held-out questions, one page."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .bundle import Bundle
from .checkpoints.source import read_source
from .data import Answer, Request, read_requests
from .export import export_onnx
from .parity.check import check, correct
from .parity.report import Report
from .progress import Progress
from .run import open_pipeline

SHAPES = Path(__file__).resolve().parent.parent / "examples" / "shapes"


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers beside the share that the most frequent answer alone would get."""

    name: str
    questions: int
    right: float
    majority: float


@dataclass(frozen=True)
class DemoResult:
    """What `run_demo` made and found."""

    bundle: Bundle
    report: Report
    questions: list[tuple[Request, Answer]]
    accuracy: list[Accuracy]
    without_image: float


def run_demo(folder: Path, overwrite: bool = False, progress: Progress | None = None) -> DemoResult:
    """Export the shipped model to `folder`/shapes.bundle, check it against its source's golden samples and answer the
    shipped held-out questions with and without their images."""
    progress = progress or Progress()
    questions = list(read_requests(SHAPES / "questions.jsonl"))
    bundle = export_onnx(
        read_source(SHAPES / "model"),
        folder / "shapes.bundle",
        samples=SHAPES / "questions.jsonl",
        overwrite=overwrite,
        progress=progress,
    )
    report = check(bundle, progress=progress)
    pipeline = open_pipeline(bundle)
    with progress.stage("answer held-out questions"):
        answers = pipeline.answer(questions)
    with progress.stage("the same without images"):
        blind = pipeline.answer([Request(q.id, q.text, None, None, q.choices, q.answer) for q in questions])
    return DemoResult(
        bundle,
        report,
        list(zip(questions, answers, strict=True)),
        accuracy_table(questions, answers),
        _right(list(zip(questions, blind, strict=True))),
    )


def accuracy_table(questions: Sequence[Request], answers: Sequence[Answer]) -> list[Accuracy]:
    """Accuracy overall and per kind of question; the kind is the id up to its first dash."""
    groups: dict[str, list[tuple[Request, Answer]]] = defaultdict(list)
    for question, answer in zip(questions, answers, strict=True):
        groups[question.id.split("-")[0]].append((question, answer))
    rows = [("all", [pair for group in groups.values() for pair in group]), *sorted(groups.items())]
    return [Accuracy(name, len(pairs), _right(pairs), _majority(pairs)) for name, pairs in rows]


def _right(pairs: Sequence[tuple[Request, Answer]]) -> float:
    return sum(bool(correct(question, answer)) for question, answer in pairs) / max(1, len(pairs))


def _majority(pairs: Sequence[tuple[Request, Answer]]) -> float:
    counts = Counter(str(question.answer) for question, _ in pairs)
    return max(counts.values(), default=0) / max(1, len(pairs))
