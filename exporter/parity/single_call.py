"""Requests as a classifier runs them: one call of its model answers them all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..classifier import MODEL, Classifier
from ..data import Answer, Request
from ..pipelines import AnyPipeline
from ..session import Arrays, Session
from ..settings import Settings
from .golden import Case
from .metrics import margins

if TYPE_CHECKING:
    from ..models.component import Component


def record_answers(
    session: Session,
    components: Sequence["Component"],
    pipeline: Classifier,
    requests: Sequence[Request],
    answers: Sequence[Answer],
    settings: Settings,
    name: str = "answers",
) -> tuple[list[Case], list[tuple[float, ...]]]:
    """See `recording.record_answers`. A score is compared as a number and has no margin."""
    inputs = pipeline.inputs(requests)
    outputs = session.run(MODEL, inputs, [pipeline.output])
    leads = margins(outputs[pipeline.output])
    chosen: list[tuple[float, ...]] = [
        (float(lead),) if answer.ids else () for lead, answer in zip(leads, answers, strict=True)
    ]
    return [Case(MODEL, name, inputs, outputs)], chosen


def run_case(session: Session, pipeline: AnyPipeline, requests: Sequence[Request], case: Case, output: str) -> Arrays:
    """See `recording.run_case`: all of it in one call."""
    return session.run(case.component, case.inputs, [output])
