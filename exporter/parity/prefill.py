"""Requests as the pipeline runs them: `vision`, and one pass of the decoder over their prompts and answers.

The pass shows in one call what greedy generation saw step by step: the logits that each token of the answer was chosen
from, and so by how much it was chosen.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..data import Answer, Request
from ..pipeline import Pipeline
from ..session import Arrays, Session
from ..settings import Settings
from .golden import Case, complete
from .metrics import margins

if TYPE_CHECKING:
    from ..models.component import Component

ROWS = 8
Margins = tuple[float, ...]


def record_answers(
    session: Session,
    components: Sequence["Component"],
    pipeline: Pipeline,
    requests: Sequence[Request],
    answers: Sequence[Answer],
    settings: Settings,
    name: str = "answers",
) -> tuple[list[Case], list[Margins]]:
    """The cases `vision` and `decoder` of at most ROWS requests with the outputs of `session`, the reference, and for
    each answer the margin of every token that was generated, its EOS too, in standard deviations of its logits.

    answers are the reference's own, made with `settings`. The logits are those of the prompt's last column and of the
    answer's columns; a shorter answer's last position is repeated.
    """
    vision, decoder = (next(part for part in components if part.name == each) for each in ("vision", "decoder"))
    seen = _run(session, vision, name, pipeline.inputs(requests), "visual_memory")
    rows = _rows(pipeline, requests, answers, settings.max_new_tokens)
    read = _run(session, decoder, name, complete(decoder, {**seen.outputs, **rows}), "logits")
    leads = margins(read.outputs["logits"][..., : pipeline.tokenizer.pieces])
    # Without an EOS the last token of an answer is the last one that was asked for.
    chosen = [min(len(answer.ids) + 1, settings.max_new_tokens) for answer in answers]
    return [seen, read], [tuple(map(float, row[:count])) for row, count in zip(leads, chosen, strict=True)]


def run_case(session: Session, pipeline: Pipeline, requests: Sequence[Request], case: Case, output: str) -> Arrays:
    """See `recording.run_case`."""
    if output != "logits":
        return session.run(case.component, case.inputs, [output])
    names = ("input_ids", "attention_mask", "logits_positions", "visual_memory")
    return {output: pipeline.logits(*(case.inputs[name] for name in names))}


def distinct_logits(case: Case, logits: np.ndarray) -> np.ndarray:
    """Logits [B,K,V] of a recorded decoder case without the repeated positions: [n,V]."""
    return logits[np.diff(case.inputs["logits_positions"], prepend=-1) != 0]


def _run(session: Session, component: "Component", name: str, inputs: Arrays, output: str) -> Case:
    return Case(component.name, name, inputs, session.run(component.name, inputs, [output]))


def _rows(pipeline: Pipeline, requests: Sequence[Request], answers: Sequence[Answer], new_tokens: int) -> Arrays:
    """Prompts and answers, padded on the left; positions count the padding, as in the pipeline."""
    room = pipeline.max_sequence - new_tokens
    rows = [
        [*pipeline.tokenizer.encode(request.text)[:room], *answer.ids]
        for request, answer in zip(requests, answers, strict=True)
    ]
    ids, mask = pipeline.padded(rows)
    width, asked = ids.shape[1], max(len(answer.ids) for answer in answers) + 1
    first = np.array([[width - 1 - len(answer.ids)] for answer in answers])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": np.tile(np.arange(width), (len(rows), 1)),
        "logits_positions": np.minimum(first + np.arange(asked), width - 1),
    }
