"""Answered questions of a demonstration, and how good they are beside a guess that does not see the picture."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question about an image, the right answer, and the model's."""

    question: str
    image: Path | None
    expected: str
    answer: str
    type: str | None = None

    @property
    def correct(self) -> bool:
        """Whether the answer is the expected one, letter case and outer spaces apart."""
        return self.answer.strip().lower() == self.expected.strip().lower()


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
    counts = Counter(question.expected.strip().lower() for question in group)
    most = max(counts.values(), default=0)
    return Accuracy(name, sum(question.correct for question in group), len(group), most / max(1, len(group)))
