"""Greedy answers are the reference's, unless it was undecided itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.check import check
from memvp_export.exporter.parity.compare import parted_at
from memvp_export.exporter.parity.samples import read_margins, read_samples
from memvp_export.exporter.pipeline import Pipeline
from memvp_export.exporter.session import Arrays

from .altered import Altered
from .edits import rewrite


def _other_answers(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["ids"] = [*lines[1]["ids"], 7]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_golden_answers_that_differ_fail_in_fp32(copy: Path) -> None:
    rewrite(copy, "samples/answers.jsonl", _other_answers)
    report = check(copy)
    assert [answer.same for answer in report.answers] == [True, False, True]
    assert not report.passed and "1 of 3 greedy answers differ" in report.verdict and "builtin-1" in report.verdict


def _part(answer: int, at: int, margin: float | None) -> Callable[[Path], None]:
    """Another token in a recorded answer, and the margin that the reference is said to have had there."""

    def edit(path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[answer]["ids"][at] = (lines[answer]["ids"][at] + 1) % 140
        if margin is None:
            del lines[answer]["margins"]
        else:
            lines[answer]["margins"][at] = margin
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return edit


@pytest.mark.parametrize(
    ("precision", "margin", "passed"),
    [
        ("fp32", 0.0005, True),
        ("fp32", 0.002, False),
        ("fp32", None, False),
        ("fp16", 0.05, True),
        ("fp16", 0.2, False),
        ("fp16", None, False),
    ],
)
def test_another_answer_passes_only_where_the_reference_was_undecided(
    bundle_of: Callable[[str], Path], tmp_path: Path, precision: str, margin: float | None, passed: bool
) -> None:
    root = Path(shutil.copytree(bundle_of(precision), tmp_path / "copy"))
    rewrite(root, "samples/answers.jsonl", _part(1, 2, margin))
    report = check(root)
    assert report.passed is passed and [answer.same for answer in report.answers] == [True, False, True]
    assert (report.answers[1].passed, report.answers[1].margin) == (passed, margin)
    said = report.notes if passed else report.failures
    assert any("1 of 3 greedy answers differ" in text for text in said)


def test_recorded_margins_are_those_of_the_reference(bundle_of: Callable[[str], Path]) -> None:
    """Against generation step by step: the last column of every prefix."""
    bundle = Bundle.open(bundle_of("fp32"))
    session = OnnxSession(bundle, threads=1)
    recorded = read_margins(bundle)
    seen: list[np.ndarray] = []

    def note(results: Arrays) -> None:
        if "logits" in results:
            seen.append(results["logits"][:, -1])

    pipeline = Pipeline.from_manifest(Altered(session, note, outputs=True), bundle.manifest, bundle.root)
    samples = read_samples(bundle)
    pipeline.answer([request for request, _ in samples])
    for row, (request, answer) in enumerate(samples):
        leads = recorded[request.id]
        assert len(leads) == min(len(answer.ids) + 1, 4)
        for step, lead in enumerate(leads):
            logits = np.sort(seen[step][row, : pipeline.tokenizer.pieces])
            assert lead == pytest.approx((logits[-1] - logits[-2]) / logits.std(), abs=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "at"),
    [((1, 2), (1, 2), None), ((1, 2), (1, 3), 1), ((1,), (1, 3), 1), ((), (1,), 0), ((2,), (1, 3), 0)],
)
def test_where_answers_part(first: tuple[int, ...], second: tuple[int, ...], at: int | None) -> None:
    assert parted_at(first, second) == at
