"""Requests as a label matcher runs them: one call for their images, one for the texts of all their labels."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..data import Answer, Request
from ..engines.shapes import NoProfile
from ..errors import VerdictError
from ..label_matcher import IMAGE, TEXT, LabelMatcher
from ..session import Session
from ..settings import Settings
from .golden import Case
from .metrics import margins
from .replay import Pair

if TYPE_CHECKING:
    from ..models.component import Component


def record_answers(
    session: Session,
    components: Sequence["Component"],
    pipeline: LabelMatcher,
    requests: Sequence[Request],
    answers: Sequence[Answer],
    settings: Settings,
    name: str = "answers",
) -> tuple[list[Case], list[tuple[float, ...]]]:
    """See `recording.record_answers`; the logits are those over each request's labels. The texts' points are those
    that the pipeline, which runs `session`, answered with."""
    images = pipeline.inputs(requests)
    seen = session.run(IMAGE, images, ["image_embeds"])
    logits = pipeline.logits(requests, seen["image_embeds"])
    chosen: list[tuple[float, ...]] = [(float(margins(row)),) for row in logits]
    texts, points = pipeline.text_points(requests)
    return [Case(IMAGE, name, images, seen), Case(TEXT, name, texts, {"text_embeds": np.stack(points)})], chosen


def compared_logits(
    answering: LabelMatcher, expecting: LabelMatcher, requests: Sequence[Request], name: str
) -> Iterator[Pair]:
    """The logits over the labels of each request beside the reference's, [n,labels] for every number of labels: what a
    model has lost of its answers, which no distance of its points tells. Nothing where it cannot answer at all, which
    is for the comparison of answers to say."""
    try:
        found = answering.logits(requests, answering.image_points(requests))
    except (NoProfile, VerdictError):
        return
    wanted = expecting.logits(requests, expecting.image_points(requests))
    for count in sorted({len(row) for row in wanted}):
        rows = [index for index, row in enumerate(wanted) if len(row) == count]
        pair = (np.stack([each[index] for index in rows]) for each in (found, wanted))
        yield Pair(IMAGE, f"{name}, over {count} labels", "logits", *pair)
