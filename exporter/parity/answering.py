"""The whole way from pixels and text, through the tested graphs and beside the reference's answers."""

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ..bundle import Bundle
from ..data import Answer, Request
from ..datasets import Dataset
from ..errors import VerdictError
from ..pipeline import Pipeline, Settings
from ..session import Session
from .compare import compare_answer, compare_output
from .prefill import ROWS, distinct_logits, record_answers
from .replay import Pair
from .report import Report

if TYPE_CHECKING:
    from ..models.component import Component

NO_ANSWERS = "there are no answers from pixels and text: {} logits are not finite"


def pipeline_of(session: Session, bundle: Bundle, precision: str) -> Pipeline:
    """Image and text to answer over `session`; a bf16 bundle is run as its float32 twin."""
    return Pipeline.from_manifest(
        session, bundle.manifest, bundle.root, precision="fp32" if precision == "bf16" else precision
    )


def compare_answers(
    report: Report,
    pipeline: Pipeline,
    requests: Sequence[Request],
    expected: Sequence[Answer],
    margins: Sequence[tuple[float, ...]],
    reference: str,
    settings: Settings | None = None,
) -> None:
    """Answer the requests and enter the answers into the report beside those expected."""
    try:
        answers = pipeline.answer(requests, settings)
    except VerdictError:
        _fail(report, NO_ANSWERS.format("the decoder's"))
        return
    for each in zip(requests, answers, expected, margins, strict=True):
        report.answers.append(compare_answer(*each, reference, report.threshold))


def compare_data(
    report: Report,
    tested: Session,
    reference: Session,
    components: Sequence["Component"],
    bundle: Bundle,
    dataset: Dataset,
    kind: str,
) -> None:
    """Run every request through both sessions: the visual memory, the logits of prompt and answer, and the answer.

    The decoder gets the reference's visual memory, so that a fault is seen where it is."""
    answering = pipeline_of(tested, bundle, report.precision)
    expecting = pipeline_of(reference, bundle, "fp32")
    settings, requests, first = dataset.settings(expecting.defaults), dataset.requests(), 1
    while batch := list(islice(requests, min(ROWS, expecting.max_batch))):
        name = f"data, requests {first} to {first + len(batch) - 1}"
        first += len(batch)
        try:
            expected = expecting.answer(batch, settings)
        except VerdictError:
            _fail(report, NO_ANSWERS.format("the reference's"))
            return
        cases, margins = record_answers(reference, components, expecting, batch, expected, settings, name)
        for case in cases:
            ((output, wanted),) = case.outputs.items()
            found = tested.run(case.component, case.inputs, [output])[output]
            if output == "logits" and found.shape == wanted.shape:
                found, wanted = distinct_logits(case, found), distinct_logits(case, wanted)
            pair = Pair(case.component, name, output, found, wanted)
            report.outputs.append(compare_output(pair, kind, report.threshold))
        compare_answers(report, answering, batch, expected, margins, kind, settings)


def _fail(report: Report, failure: str) -> None:
    # Of every batch the same would be said.
    if failure not in report.failures:
        report.failures.append(failure)
