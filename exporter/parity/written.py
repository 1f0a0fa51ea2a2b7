"""Requests as an encoder-decoder runs them: `vision`, `encoder`, and one pass of `decoder` over what it wrote."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..data import Answer, Request
from ..encoder_decoder import DECODER, ENCODER, VISION, EncoderDecoder
from ..session import Arrays, Session
from ..settings import Settings
from .golden import Case, complete, left_by
from .metrics import leads

if TYPE_CHECKING:
    from ..models.component import Component

# A forced token leads by more than any other: the infinite is no number to JSON.
_FORCED = 1e9


def record_answers(
    session: Session,
    components: Sequence["Component"],
    pipeline: EncoderDecoder,
    requests: Sequence[Request],
    answers: Sequence[Answer],
    settings: Settings,
    name: str = "answers",
) -> tuple[list[Case], list[tuple[float, ...]]]:
    """See `recording.record_answers`. The decoder's columns are the start token and the answer's; a shorter answer goes
    on with the token that ends it, whose logits say nothing."""
    encoder, decoder = (next(part for part in components if part.name == name) for name in (ENCODER, DECODER))
    images = pipeline.inputs(requests)
    seen = {"visual_memory": pipeline.shown(requests, session.run(VISION, images, ["visual_memory"])["visual_memory"])}
    known: Arrays = {**pipeline.text_inputs(requests), **seen}
    read = complete(encoder, known)
    outputs = session.run(ENCODER, read)
    known = {**seen, **left_by(encoder, read, outputs)}
    known["input_ids"] = ids = _rows(pipeline, answers, settings)
    written = complete(decoder, known)
    logits = session.run(DECODER, written, ["logits"])
    cases = [
        Case(VISION, name, images, seen),
        Case(ENCODER, name, read, {"last_hidden_state": outputs["last_hidden_state"]}),
        Case(DECODER, name, written, logits),
    ]
    margins = _margins(pipeline, ids, logits["logits"], settings)
    return cases, [tuple(row[:count]) for row, count in zip(margins, _lengths(answers, settings), strict=True)]


def run_case(
    session: Session, pipeline: EncoderDecoder, requests: Sequence[Request], case: Case, output: str
) -> Arrays:
    """See `recording.run_case`."""
    if output == "logits":
        return {output: pipeline.logits(case.inputs["input_ids"], pipeline.held(case.inputs))}
    if case.component == ENCODER:
        return pipeline.encoded(case.inputs, output)
    found = session.run(case.component, case.inputs, [output])[output]
    return {output: pipeline.shown(requests, found)}


def _lengths(answers: Sequence[Answer], settings: Settings) -> list[int]:
    """How many tokens were written: without an EOS the last one of an answer is the last that was asked for."""
    return [min(len(answer.ids) + 1, settings.max_new_tokens) for answer in answers]


def _rows(pipeline: EncoderDecoder, answers: Sequence[Answer], settings: Settings) -> np.ndarray:
    """The start token and each answer, int64 [B,n]: what the tokens that were written follow."""
    lengths = _lengths(answers, settings)
    ids = np.full((len(answers), max(lengths)), pipeline.tokenizer.eos, np.int64)
    ids[:, 0] = pipeline.start
    for row, answer, length in zip(ids, answers, lengths, strict=True):
        row[1:length] = answer.ids[: length - 1]
    return ids


def _margins(pipeline: EncoderDecoder, ids: np.ndarray, logits: np.ndarray, settings: Settings) -> list[list[float]]:
    """How far each token leads the next one that might have come, in standard deviations of its logits: [B][n]."""
    rules, logits = pipeline.rules(settings), logits[..., : pipeline.tokenizer.pieces]
    columns = [
        leads(rules.applied(logits[:, at], ids[:, : at + 1]), logits[:, at].std(-1, dtype=np.float64))
        for at in range(ids.shape[1])
    ]
    return [[float(min(lead, _FORCED)) for lead in row] for row in np.stack(columns, 1)]
