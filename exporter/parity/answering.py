"""The whole way from pixels and text, through the tested graphs and beside the reference's answers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle
from ..data import Answer, Request
from ..datasets import Dataset
from ..errors import VerdictError
from ..pipeline import Settings
from ..pipelines import AnyPipeline, pipeline_from
from ..session import Session
from .compare import compare_answer, compare_output
from .recording import ROWS, distinct_logits, record_answers
from .replay import Pair
from .report import Report

if TYPE_CHECKING:
    from ..models.component import Component

NO_ANSWERS = "there are no answers from pixels and text: {} logits are not finite"


def pipeline_of(session: Session, manifest: Mapping[str, Any], root: Path, precision: str) -> AnyPipeline:
    """Image and text to answer over `session`, which runs the components as `manifest` has them; where that leaves
    their type to the precision, bf16 is run as its float32 twin."""
    return pipeline_from(session, manifest, root, precision="fp32" if precision == "bf16" else precision)


def possible(settings: Settings, manifest: Mapping[str, Any]) -> Settings:
    """The settings with one new token where the decoder, as `manifest` has it, was built for a single pass."""
    decoder = manifest["components"].get("decoder")
    return settings if decoder is None or decoder["cache"] else replace(settings, max_new_tokens=1)


def compare_answers(
    report: Report,
    pipeline: AnyPipeline,
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
    manifest: Mapping[str, Any],
    dataset: Dataset,
    kind: str,
) -> None:
    """Run every request through both sessions: the visual memory, the logits of prompt and answer, and the answer.

    manifest has the components as `tested` runs them. The decoder gets the reference's visual memory, so that a fault
    is seen where it is."""
    answering = pipeline_of(tested, manifest, bundle.root, report.precision)
    expecting = pipeline_of(reference, bundle.manifest, bundle.root, "fp32")
    settings, requests, first = possible(dataset.settings(expecting.defaults), manifest), dataset.requests(), 1
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
