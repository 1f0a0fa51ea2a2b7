"""What a comparison came to: of one output, and of one answer."""

from dataclasses import dataclass

from .metrics import Agreement, Distance


@dataclass(frozen=True)
class OutputResult:
    """One output in one case against its reference. problem says why it could not be compared, where it could not."""

    reference: str
    component: str
    case: str
    output: str
    shape: tuple[int, ...]
    distance: Distance
    agreement: Agreement | None
    passed: bool
    problem: str = ""


@dataclass(frozen=True)
class AnswerResult:
    """One sample from pixels and text: greedy tokens of the bundle and of the reference.

    margin: by how much the reference chose the token where the two part, in standard deviations of its logits; None
    where they do not part or it is not known. passed: they are the same, or part at a margin that is not decisive.
    correct and expected_correct: whether each of the two is right, None where that is not known.
    """

    reference: str
    id: str
    text: str
    image: str | None
    answer: str
    expected: str
    tokens: list[int]
    expected_tokens: list[int]
    same: bool
    margin: float | None
    passed: bool
    correct: bool | None
    expected_correct: bool | None = None
