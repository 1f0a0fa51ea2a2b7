"""What a model keeps of the reference's answers to a data file, over all of its questions together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .intervals import paired, wilson
from .metrics import Agreement, parted_at
from .results import AnswerResult
from .thresholds import QualityLimit

Interval = tuple[float, float]


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers to the same questions, of the bundle and of the reference, each with its 95 % interval;
    difference is the bundle's share less the reference's, half the half width of its 95 % interval."""

    questions: int
    share: float
    interval: Interval
    reference: float
    reference_interval: Interval
    difference: float
    half: float


@dataclass(frozen=True)
class Quality:
    """rows of logits were compared, each where the reference chose a token: kl is their mean divergence in nats, top1
    the share with the same first token. tokens is the share of the reference's greedy tokens, ends of answers among
    them, that the bundle generated up to where the two part. All None of a model that gives no logits; accuracy is None
    where no right answer is known. image is of models that make images: the mean relative L2 of those."""

    questions: int
    rows: int
    kl: float | None
    top1: float | None
    tokens: float | None
    accuracy: Accuracy | None
    image: float | None = None


def quality_of(agreements: Sequence[Agreement], answers: Sequence[AnswerResult]) -> Quality:
    """From the logits and the answers of one data file."""
    rows = sum(one.rows for one in agreements)
    return Quality(
        len(answers),
        rows,
        sum(one.kl * one.rows for one in agreements) / rows if rows else None,
        sum(one.top1 * one.rows for one in agreements) / rows if rows else None,
        _kept_tokens(answers) if rows else None,
        _accuracy(answers),
    )


def _kept_tokens(answers: Sequence[AnswerResult]) -> float:
    kept = total = 0
    for answer in answers:
        # With the end of the answer.
        count = len(answer.expected_tokens) + 1
        parted = parted_at(answer.tokens, answer.expected_tokens)
        kept += count if parted is None else parted
        total += count
    return kept / total


def _accuracy(answers: Sequence[AnswerResult]) -> Accuracy | None:
    judged = [(bool(answer.expected_correct), answer.correct) for answer in answers if answer.correct is not None]
    if not judged:
        return None
    before, after = zip(*judged, strict=True)
    total = len(judged)
    return Accuracy(
        total, sum(after) / total, wilson(sum(after), total), sum(before) / total, wilson(sum(before), total),
        *paired(before, after),
    )  # fmt: skip


def shortfalls(quality: Quality, limit: QualityLimit) -> list[str]:
    """Every limit that is not kept, in words."""
    return list(_shortfalls(quality, limit))


def _shortfalls(quality: Quality, limit: QualityLimit) -> Iterator[str]:
    # Written so that a figure that is no number falls short.
    if quality.kl is not None and not quality.kl <= limit.kl:
        yield f"the logits' mean KL divergence is {quality.kl:.2e} nats, at most {limit.kl:g} is allowed"
    if quality.top1 is not None and not quality.top1 >= limit.top1:
        yield f"{quality.top1:.2%} of {quality.rows} first tokens agree, at least {limit.top1:.0%} must"
    if quality.tokens is not None and not quality.tokens >= limit.tokens:
        yield f"{quality.tokens:.2%} of the reference's greedy tokens are kept, at least {limit.tokens:.0%} must be"
    if quality.image is not None and not quality.image <= limit.image:
        yield f"the images' mean relative L2 is {quality.image:.2e}, at most {limit.image:g} is allowed"
    found = quality.accuracy
    if found is not None and not -100 * found.difference <= limit.points:
        yield f"accuracy is {described(found)}: at most {limit.points:.1f} points may be lost"


def summary(quality: Quality) -> str:
    """All of it in words."""
    parts = [f"accuracy {described(quality.accuracy)}"] if quality.accuracy else []
    if quality.kl is not None and quality.top1 is not None and quality.tokens is not None:
        parts.append(f"KL {quality.kl:.1e} nats, top-1 {quality.top1:.2%}, greedy tokens {quality.tokens:.2%}")
    if quality.image is not None:
        parts.append(f"mean relative L2 {quality.image:.1e} of {quality.questions} images")
    return "; ".join(parts) or f"the scores of {quality.questions} questions"


def described(found: Accuracy) -> str:
    """Accuracy in words, with its intervals."""
    (low, high), points = found.interval, 100 * found.difference
    return (
        f"{found.share:.2%} ({low:.2%} to {high:.2%}) on {found.questions} questions, the reference's "
        f"{found.reference:.2%}, difference {points:+.2f} ± {100 * found.half:.2f} points"
    )


def unsure(quality: Quality, limit: QualityLimit) -> str:
    """A caveat, where the questions are too few to rule out a larger loss of accuracy than is allowed; else empty."""
    found = quality.accuracy
    if quality.image is not None:
        return "images have no right answers: how near they are to the reference's was measured, not how good they are"
    if found is None:
        return "no question of the data names its right answer: accuracy was not measured"
    worst = 100 * (found.half - found.difference)
    if worst <= limit.points:
        return ""
    return (
        f"{found.questions} questions cannot rule out a loss of accuracy above {limit.points:.1f} points: the 95 % "
        f"interval reaches {worst:.1f}"
    )
