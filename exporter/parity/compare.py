"""Outputs and answers beside those of the reference, judged by the limits of a precision."""

from ..data import Answer, Request
from ..judging import correct
from .metrics import INCOMPARABLE, distance, parted_at, top1_agreement
from .replay import Pair
from .results import AnswerResult, OutputResult
from .thresholds import Threshold


def compare_output(pair: Pair, reference: str, limit: Threshold) -> OutputResult:
    """Figures of one output; what has another shape, no values or values that are not finite fails."""
    shape = tuple(pair.expected.shape)
    given = (reference, pair.component, pair.case, pair.output, shape)
    if pair.actual.shape != shape:
        return OutputResult(*given, INCOMPARABLE, None, False, f"shape {list(pair.actual.shape)}, not {list(shape)}")
    if not pair.expected.size:
        return OutputResult(*given, INCOMPARABLE, None, False, "there is nothing to compare")
    found = distance(pair.actual, pair.expected)
    agreement = top1_agreement(pair.actual, pair.expected, limit.margin) if pair.output == "logits" else None
    passed = found.relative_l2 <= limit.relative_l2 and found.cosine >= limit.cosine
    if agreement is not None and limit.quality:
        passed = agreement.kl <= limit.quality.case_kl
    elif agreement is not None:
        passed = passed and agreement.decisive_top1 == 1
    return OutputResult(*given, found, agreement, passed, "" if found.finite else "not finite")


def compare_answer(
    request: Request, answer: Answer, expected: Answer, margins: tuple[float, ...], reference: str, limit: Threshold
) -> AnswerResult:
    """Two greedy answers to one request. margins are the reference's, of each token it generated (its EOS too).

    A token may be another one only where the reference itself hardly preferred its own: where that is not known, the
    answer fails."""
    at = parted_at(answer.ids, expected.ids)
    margin = margins[at] if at is not None and at < len(margins) else None
    return AnswerResult(
        reference=reference,
        id=request.id,
        text=request.text,
        image=str(request.image) if request.image else None,
        answer=answer.text,
        expected=expected.text,
        tokens=list(answer.ids),
        expected_tokens=list(expected.ids),
        same=at is None,
        margin=margin,
        passed=at is None or (margin is not None and margin <= limit.margin),
        correct=correct(request, answer),
        expected_correct=correct(request, expected),
    )
