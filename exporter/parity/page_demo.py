"""Answered questions of a demonstration, and how good they are beside a guess that does not see the picture."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data import Answer, Request
from ..judging import accepted_texts, correct


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question about an image, the right answer, the model's, and whether that is right."""

    question: str
    image: Path | None
    expected: str
    answer: str
    correct: bool
    type: str | None = None


def answered_question(request: Request, answer: Answer, type: str | None = None) -> AnsweredQuestion:
    """A request whose right answer is known, beside the model's answer."""
    expected = " or ".join(accepted_texts(request))
    return AnsweredQuestion(request.text, request.image, expected, answer.text, bool(correct(request, answer)), type)


@dataclass(frozen=True)
class Accuracy:
    """Right answers out of total. majority is the share that always giving the most frequent answer would get."""

    name: str
    right: int
    total: int
    majority: float

    @property
    def share(self) -> float:
        """Right answers between 0 and 1; 0 where nothing was asked."""
        return self.right / self.total if self.total else 0.0


def accuracies(answered: Sequence[AnsweredQuestion], name: str = "all questions") -> list[Accuracy]:
    """The accuracy over all questions first, then per type in the order of appearance."""
    groups: dict[str, list[AnsweredQuestion]] = {}
    for question in answered:
        groups.setdefault(question.type or "", []).append(question)
    types = [_accuracy(type_ or "other", group) for type_, group in groups.items()]
    overall = _accuracy(name, answered)
    return [overall, *types] if len(types) > 1 else [overall]


def _accuracy(name: str, group: Sequence[AnsweredQuestion]) -> Accuracy:
    counts = Counter(question.expected.strip().casefold() for question in group)
    most = max(counts.values(), default=0)
    return Accuracy(name, sum(question.correct for question in group), len(group), most / max(1, len(group)))
