"""The whole way on the model that ships with the project: export, check, answer held-out questions, one page."""

from dataclasses import dataclass, replace
from pathlib import Path

from .bundle import Bundle, check_place
from .checkpoints.source import read_source
from .data import Answer, Request, read_requests
from .errors import InputError
from .export import export_onnx
from .parity.check import check
from .parity.page import write_demo_page
from .parity.page_demo import Accuracy, AnsweredQuestion, accuracies, answered_question
from .parity.report import Report
from .progress import Progress
from .run import open_pipeline

SHAPES = Path(__file__).resolve().parent.parent / "examples" / "shapes"
PAGE = "demo.html"
_INTRODUCTION = (
    "A small MemVP-LLaMA, trained from scratch on drawings of coloured shapes, was exported from its official "
    "checkpoint files to ONNX, compared with PyTorch, and asked held-out questions about drawings it had never seen."
)


@dataclass(frozen=True)
class DemoResult:
    """What `run_demo` made and found; accuracy has the row over all questions first."""

    bundle: Bundle
    report: Report
    accuracy: list[Accuracy]
    without_images: Accuracy
    page: Path


def run_demo(folder: Path, overwrite: bool = False, progress: Progress | None = None) -> DemoResult:
    """Export the shipped model to `folder`/shapes.bundle, check it, answer the shipped held-out questions with and
    without their images, and write `folder`/demo.html. Raises InputError where `folder` is a file, or holds a demo
    that is not to be replaced."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder for the demo.")
    progress, output = progress or Progress(), folder / "shapes.bundle"
    check_place(output, overwrite)
    questions = list(read_requests(SHAPES / "questions.jsonl"))
    bundle = export_onnx(
        read_source(SHAPES / "model"),
        output,
        samples=SHAPES / "questions.jsonl",
        overwrite=overwrite,
        progress=progress,
    )
    report = check(bundle, progress=progress)
    pipeline = open_pipeline(bundle)
    with progress.stage("answer held-out questions"):
        answered = _answered(questions, pipeline.answer(questions))
    with progress.stage("the same without images"):
        blind = [replace(question, image=None) for question in questions]
        unseen = accuracies(_answered(blind, pipeline.answer(blind)))
    accuracy = accuracies(answered)
    with progress.stage("write the page"):
        page = folder / PAGE
        write_demo_page(
            report,
            progress.stages,
            answered,
            page,
            accuracy=accuracy,
            without_images=unseen[0].share,
            introduction=_INTRODUCTION,
        )
    return DemoResult(bundle, report, accuracy, unseen[0], page)


def _answered(questions: list[Request], answers: list[Answer]) -> list[AnsweredQuestion]:
    """The type of a question is its id up to the first dash."""
    return [answered_question(q, a, q.id.split("-")[0]) for q, a in zip(questions, answers, strict=True)]
