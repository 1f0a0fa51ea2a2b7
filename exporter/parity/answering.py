"""The whole way from pixels and text, through the tested graphs and beside the reference's answers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Bundle
from ..classifier import MODEL, Classifier
from ..data import Answer, Request
from ..datasets import Dataset
from ..engines.shapes import NoProfile
from ..errors import VerdictError
from ..label_matcher import LabelMatcher
from ..pipelines import AnyPipeline, pipeline_from
from ..session import Arrays, Session
from ..settings import Settings
from ..text_pipeline import TextPipeline
from .compare import compare_answer, compare_output
from .golden import Case
from .label_points import compared_logits
from .quality import quality_of
from .recording import ROWS, distinct_logits, record_answers, run_case
from .replay import Pair
from .report import Report
from .thresholds import Threshold

if TYPE_CHECKING:
    from ..models.component import Component

NO_ANSWERS = "there are no answers from pixels and text: {} logits are not finite"


@dataclass(frozen=True)
class Judged:
    """What is judged: session for single calls, of no more rows than it is for; answering for whole answers, as `run`
    makes them, with the caches of a session that has its own; manifest, with the components as both run them."""

    session: Session
    answering: Session
    manifest: Mapping[str, Any]


def pipeline_of(session: Session, manifest: Mapping[str, Any], root: Path, precision: str) -> AnyPipeline:
    """Image and text to answer over `session`, which runs the components as `manifest` has them; where that leaves
    their type to the plain precision, bf16 is run as its float32 twin."""
    return pipeline_from(session, manifest, root, precision="fp32" if precision == "bf16" else precision)


def possible(settings: Settings, manifest: Mapping[str, Any]) -> Settings:
    """The settings with one new token where the decoder, as `manifest` has it, was built for a single pass."""
    decoder = manifest["components"].get("decoder")
    return settings if decoder is None or decoder["cache"] else replace(settings, max_new_tokens=1)


def fits(pipeline: AnyPipeline, request: Request, settings: Settings, longest: int) -> bool:
    """Whether what may be shorter than the model, which takes `longest` columns, sees the prompt as the model does and
    writes as many tokens."""
    room = pipeline.text_room(settings)
    if room and pipeline.max_sequence >= longest:
        return True
    return max(map(len, pipeline.texts(request))) <= room


def note_left_out(report: Report, count: int, of: str, pipeline: AnyPipeline, settings: Settings) -> None:
    """Tell that `count` requests do not fit, of those that `of` names."""
    if not count:
        return
    why = f"they are longer than the {pipeline.max_sequence} columns that the engine was built for"
    if not pipeline.text_room(settings):
        why = f"the engine was built for answers of fewer than {settings.max_new_tokens} tokens"
    report.notes.append(f"{count} of {of} were not compared: {why}")


def compare_answers(
    report: Report,
    pipeline: AnyPipeline,
    requests: Sequence[Request],
    expected: Sequence[Answer],
    margins: Sequence[tuple[float, ...]],
    reference: str,
    settings: Settings | None = None,
    limit: Threshold | None = None,
) -> int:
    """Answer the requests and enter the answers into the report beside those expected, scores as one output; limit is
    the report's unless another one is given. Returns how many were compared: all or none."""
    try:
        answers = pipeline.answer(requests, settings)
    except VerdictError:
        _fail(report, NO_ANSWERS.format("the decoder's" if isinstance(pipeline, TextPipeline) else "the model's"))
        return 0
    except NoProfile as error:
        report.notes.append(f"{len(requests)} answers from pixels and text were not compared: {error}")
        return 0
    limit = limit or report.threshold
    if isinstance(pipeline, Classifier) and pipeline.scores:
        case = f"from pixels and text, {requests[0].id} to {requests[-1].id}"
        scores = (np.array([float(answer.text) for answer in each], np.float32) for each in (answers, expected))
        report.outputs.append(compare_output(Pair(MODEL, case, pipeline.output, *scores), reference, limit))
        return len(answers)
    for asked in zip(requests, answers, expected, margins, strict=True):
        report.answers.append(compare_answer(*asked, reference, limit))
    return len(answers)


def compare_data(
    report: Report,
    tested: Judged,
    reference: Session,
    components: Sequence["Component"],
    bundle: Bundle,
    dataset: Dataset,
    kind: str,
) -> None:
    """Run every request through both: the visual memory, the logits of prompt and answer, and the answer.

    The decoder gets the reference's visual memory, so that a fault
    is seen where it is. A quantized precision is judged by the whole of it: there the decoder gets what `vision` gave,
    and no answer fails by itself. Requests that are longer than an engine are left out, which a note says; where none
    is left, that is a failure."""
    plain = bundle.plain_precision(report.precision)
    answering = pipeline_of(tested.answering, tested.manifest, bundle.root, plain)
    replaying = pipeline_of(tested.session, tested.manifest, bundle.root, plain)
    expecting = pipeline_of(reference, bundle.manifest, bundle.root, "fp32")
    settings = possible(dataset.settings(expecting.defaults), tested.manifest)
    first, total, fitting, answered = 1, 0, 0, 0
    limit, before, compared = report.threshold, len(report.answers), len(report.outputs)
    any_margin = replace(limit, margin=np.inf) if limit.quality else limit
    run_before: set[str] = set()
    requests = dataset.requests()
    while taken := list(islice(requests, min(ROWS, expecting.max_batch))):
        name = f"data, requests {first} to {first + len(taken) - 1}"
        first, total = first + len(taken), total + len(taken)
        batch = [request for request in taken if fits(answering, request, settings, expecting.max_sequence)]
        fitting += len(batch)
        if not batch:
            continue
        try:
            expected = expecting.answer(batch, settings)
        except VerdictError:
            _fail(report, NO_ANSWERS.format("the reference's"))
            return
        cases, margins = record_answers(reference, components, expecting, batch, expected, settings, name)
        _compare_recorded(report, tested.session, replaying, batch, cases, name, kind, run_before)
        if limit.quality and isinstance(answering, LabelMatcher) and isinstance(expecting, LabelMatcher):
            pairs = compared_logits(answering, expecting, batch, name)
            report.outputs += [compare_output(pair, kind, limit) for pair in pairs]
        answered += compare_answers(report, answering, batch, expected, margins, kind, settings, any_margin)
    note_left_out(report, total - fitting, f"{total} requests", answering, settings)
    if len(report.outputs) == compared:
        _fail(report, "no request of the data could be compared: the engines were built for other shapes")
    if answered:
        agreements = [one.agreement for one in report.outputs[compared:] if one.agreement is not None]
        report.quality = replace(quality_of(agreements, report.answers[before:]), questions=answered)


def _compare_recorded(
    report: Report,
    tested: Session,
    pipeline: AnyPipeline,
    requests: Sequence[Request],
    cases: Sequence[Case],
    name: str,
    kind: str,
    run_before: set[str],
) -> None:
    """Run the recorded cases of these requests over `tested`, which is the pipeline's, and enter what it gave beside
    the reference's. run_before has the digests of cases that are not run again."""
    limit = report.threshold
    made: Arrays = {}
    read = {port for case in cases for port in case.inputs}
    for case in cases:
        # Many requests may share their labels. What another case reads is computed anew for it.
        if case.outputs.keys().isdisjoint(read):
            if (asked := _digest(case)) in run_before:
                continue
            run_before.add(asked)
        ((output, wanted),) = case.outputs.items()
        try:
            inputs = {port: made.get(port, array) for port, array in case.inputs.items()}
            outputs = run_case(tested, pipeline, requests, Case(case.component, name, inputs, {}), output)
        except NoProfile as error:
            report.notes.append(f"{case.component}, {name}, was not compared: {error}")
            continue
        made |= outputs if limit.quality else {}
        found = outputs[output]
        if output == "logits" and found.shape == wanted.shape:
            found, wanted = distinct_logits(case, found), distinct_logits(case, wanted)
        report.outputs.append(compare_output(Pair(case.component, name, output, found, wanted), kind, limit))


def _digest(case: Case) -> str:
    """What a recorded case follows from."""
    digest = hashlib.sha256(case.component.encode())
    for name, array in sorted(case.inputs.items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _fail(report: Report, failure: str) -> None:
    # Of every batch the same would be said.
    if failure not in report.failures:
        report.failures.append(failure)
