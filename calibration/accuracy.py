"""The share of right answers to requests whose answers are known, and how sure that share is."""

import math
from collections.abc import Sequence

from ..exporter.data import Answer, Request
from ..exporter.pipelines import AnyPipeline

# Of a normal distribution, for 95 %.
_Z = 1.959964


def accuracy(pipeline: AnyPipeline, requests: Sequence[Request]) -> float:
    """Share of requests that are answered as expected."""
    answers = pipeline.answer(requests)
    return sum(is_right(request, answer) for request, answer in zip(requests, answers, strict=True)) / len(requests)


def is_right(request: Request, answer: Answer) -> bool:
    """Whether an answer is the expected one: the choice, the text, or one of several texts."""
    expected = request.answer
    if isinstance(expected, int):
        return answer.choice == expected
    accepted = (expected,) if isinstance(expected, str) else expected or ()
    return answer.text.strip().lower() in {text.strip().lower() for text in accepted}


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson's score interval)."""
    share, z2 = right / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return middle - half, middle + half


def paired(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float]:
    """The difference of two shares on the same questions, `second - first`, and the half width of its 95 % interval:
    questions that both answer alike say nothing about it."""
    total = len(first)
    won = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    difference = (won - lost) / total
    return difference, _Z * math.sqrt((won + lost) / total - difference**2) / math.sqrt(total)
