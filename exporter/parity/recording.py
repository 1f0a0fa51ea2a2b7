"""What the reference computed on the way to its answers, however its family answers."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..classifier import Classifier
from ..data import Answer, Request
from ..encoder_decoder import EncoderDecoder
from ..label_matcher import LabelMatcher
from ..pipeline import Pipeline
from ..pipelines import AnyPipeline
from ..session import Arrays, Session
from ..settings import Settings
from . import label_points, prefill, single_call, written
from .golden import Case

if TYPE_CHECKING:
    from ..models.component import Component

ROWS = prefill.ROWS
# How a family's answers are recorded, and how a recorded case is run again.
_WAYS: dict[type, tuple[Callable[..., Any], Callable[..., Any]]] = {
    Pipeline: (prefill.record_answers, prefill.run_case),
    EncoderDecoder: (written.record_answers, written.run_case),
    Classifier: (single_call.record_answers, single_call.run_case),
    LabelMatcher: (label_points.record_answers, single_call.run_case),
}


def record_answers(
    session: Session,
    components: Sequence["Component"],
    pipeline: AnyPipeline,
    requests: Sequence[Request],
    answers: Sequence[Answer],
    settings: Settings,
    name: str = "answers",
) -> tuple[list[Case], list[prefill.Margins]]:
    """The cases of at most ROWS requests with the outputs of `session`, the reference, one output each, and for each
    answer how firmly each of its tokens was chosen, in standard deviations of its logits. answers are the reference's
    own, made with `settings`."""
    record, _ = _WAYS[type(pipeline)]
    cases, margins = record(session, components, pipeline, requests, answers, settings, name)
    return cases, margins


def run_case(session: Session, pipeline: AnyPipeline, requests: Sequence[Request], case: Case, output: str) -> Arrays:
    """The output of a recorded case of these requests over `session`, which is the pipeline's: a decoder's in the
    pieces in which an answer is made, and with an encoder's what the decoder takes of it, by the names it has there."""
    _, run = _WAYS[type(pipeline)]
    found: Arrays = run(session, pipeline, requests, case, output)
    return found


def distinct_logits(case: Case, logits: np.ndarray) -> np.ndarray:
    """Logits of a recorded case, those of a decoder [B,K,V] without the repeated positions: [n,V]."""
    return prefill.distinct_logits(case, logits) if "logits_positions" in case.inputs else logits
