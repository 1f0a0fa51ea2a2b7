"""Retrieval: which text fits an image best, and which image a text, by the scores of their pairs (spec 4.3)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .data import Answer, Request


@dataclass(frozen=True)
class Ranked:
    """One pair of a ranking: the id of its request and its score."""

    id: str
    score: float


@dataclass(frozen=True)
class Ranking:
    """All pairs of one query, best first; equal scores keep the order of the file. query is an image's path or a text,
    as `by` says; the pairs are the texts that were asked about that image, or the images about that text."""

    by: Literal["image", "text"]
    query: str
    pairs: tuple[Ranked, ...]


def rankings(requests: Iterable[Request], answers: Mapping[str, Answer]) -> list[Ranking]:
    """The ranking of every image that has several texts, then of every text that has several images, in the order of
    their first requests. answers are those of a model that scores, by id, one for each request."""
    of_image: dict[str, list[Ranked]] = {}
    of_text: dict[str, list[Ranked]] = {}
    for request in requests:
        pair = Ranked(request.id, float(answers[request.id].text))
        of_image.setdefault(str(request.image), []).append(pair)
        of_text.setdefault(request.text, []).append(pair)
    by_image = [Ranking("image", query, _sorted(pairs)) for query, pairs in of_image.items() if len(pairs) > 1]
    return by_image + [Ranking("text", query, _sorted(pairs)) for query, pairs in of_text.items() if len(pairs) > 1]


def _sorted(pairs: Iterable[Ranked]) -> tuple[Ranked, ...]:
    return tuple(sorted(pairs, key=lambda pair: -pair.score))
