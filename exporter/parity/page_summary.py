"""What a report page says about a Report: the worst of each output, why a case failed, what the references mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from . import page_words as words
from .check import GOLDEN, GRAPH_ONLY, SOURCE
from .metrics import parted_at
from .quality import summary as described_quality
from .quality import unsure
from .report import Report
from .results import AnswerResult, OutputResult
from .thresholds import Threshold

_MEANING = {
    GOLDEN: "When the bundle was exported, the original model ran in PyTorch (float32), straight from its official "
    "files, on a few images and texts. Inputs and outputs were stored in the bundle, and the bundle was now run on the "
    "same inputs. A fault anywhere between the official files and these results would show.",
    SOURCE: "The official files were read again for this check and the original model was run in PyTorch, beside the "
    "bundle and on the same inputs. This is the strongest evidence there is.",
    GRAPH_ONLY: "PyTorch ran with the weights that are in the bundle. It shows that the graphs compute what PyTorch "
    "computes; it cannot show that these weights are the ones of the official files.",
}


@dataclass(frozen=True)
class Summary:
    """The worst figures of one output over all of its cases; `case` is where relative L2 is worst, reasons
    are the limits that the worst of the failed cases broke."""

    component: str
    output: str
    case: str
    cases: int
    failed: int
    max: float
    mean: float
    p99: float
    cosine: float
    relative_l2: float
    top1: float | None
    decisive_top1: float | None
    decisive: int
    reasons: list[str]


@dataclass(frozen=True)
class Headline:
    """The answer of the page in three words and a sentence; tone ("good", "bad" or "warn") only repeats the words."""

    tone: str
    words: str
    sentence: str


def badness(value: float) -> float:
    """A key to order differences by: NaN is as bad as infinity."""
    return math.inf if math.isnan(value) else value


def worst(results: Sequence[OutputResult]) -> OutputResult:
    """The result that is farthest from its reference."""
    return max(results, key=lambda result: (badness(result.distance.relative_l2), not result.passed))


def summarize(results: Sequence[OutputResult], limits: Threshold) -> list[Summary]:
    """One row per component and output, in the order of the report."""
    groups: dict[tuple[str, str], list[OutputResult]] = {}
    for result in results:
        groups.setdefault((result.component, result.output), []).append(result)
    return [_summary(group, limits) for group in groups.values()]


def _summary(group: Sequence[OutputResult], limits: Threshold) -> Summary:
    distances = [result.distance for result in group]
    agreements = [result.agreement for result in group if result.agreement is not None]
    farthest = worst(group)
    failed = [result for result in group if not result.passed]
    return Summary(
        farthest.component,
        farthest.output,
        farthest.case,
        len(group),
        len(failed),
        max((d.max for d in distances), key=badness),
        max((d.mean for d in distances), key=badness),
        max((d.p99 for d in distances), key=badness),
        max((d.cosine for d in distances), key=lambda value: badness(-value)),
        farthest.distance.relative_l2,
        min((a.top1 for a in agreements), default=None),
        min((a.decisive_top1 for a in agreements), default=None),
        sum(a.decisive for a in agreements),
        why_failed(worst(failed), limits) if failed else [],
    )


def why_failed(result: OutputResult, limits: Threshold) -> list[str]:
    """The limits that a result broke, in words; empty where it passed."""
    if result.passed:
        return []
    found, reasons = result.distance, []
    if not found.finite:
        return ["could not be compared: NaN or infinite values, or another shape"]
    if limits.quality and result.agreement:
        kl = words.figure(result.agreement.kl)
        return [f"KL divergence {kl} nats, limit {words.limit(limits.quality.case_kl)}"]
    if not found.relative_l2 <= limits.relative_l2:
        reasons.append(f"relative L2 {words.figure(found.relative_l2)}, limit {words.limit(limits.relative_l2)}")
    if not found.cosine >= limits.cosine:
        reasons.append(f"cosine {words.cosine(found.cosine)}, limit {words.limit(limits.cosine)}")
    agreement = result.agreement
    if agreement is not None and agreement.decisive_top1 != 1:
        share = words.percent(agreement.decisive_top1)
        reasons.append(f"decisive top-1 {share} of {agreement.decisive}, limit {words.percent(1.0)}")
    return reasons or ["the check marked it as failed"]


def headline(report: Report) -> Headline:
    """What the report shows."""
    if not report.outputs:
        return Headline("bad", "No parity shown", "Nothing could be compared, so nothing is known about this bundle.")
    if not report.passed:
        said = "Parity failed" if report.threshold.quality is None else f"{report.precision} is not accepted"
        failed = sum(not result.passed for result in report.outputs)
        text = f"{failed} of {len(report.outputs)} compared outputs are outside the limits."
        if not failed:
            text = "Every compared output is within its limits, and something else failed: the reasons are below."
        return Headline("bad", said, text)
    text = f"All {len(report.outputs)} compared outputs are within the limits"
    if report.threshold.quality:
        return Headline("good", f"{report.precision} is accepted", f"{text}. {quality_sentence(report)}")
    if report.on_twin:
        twin = ". They come from the graphs' float32 twin, on the same weights; bfloat16 itself was not run."
        return Headline("warn", "Parity shown on the float32 twin", text + twin)
    if report.graph_only:
        names = ", ".join(report.graph_only)
        weights = f". Whether the bundle's weights of {names} are the official ones was not compared."
        return Headline("warn", "Graph parity only", text + weights)
    return Headline("good", "Parity shown", text + ": the bundle gives PyTorch's results.")


def kinds(report: Report) -> list[tuple[str, str]]:
    """Each reference that was compared with, and what such a comparison shows."""
    return [(kind, _MEANING.get(kind, "")) for kind in report.kinds]


def quality_sentence(report: Report) -> str:
    """What is left of the reference's answers to the data, and how sure that is."""
    if report.quality is None:
        return ""
    doubt = unsure(report.quality, report.threshold.quality) if report.threshold.quality else ""
    return f"{described_quality(report.quality)}." + (f" But {doubt}." if doubt else "")


def effect_sentence(report: Report) -> str:
    """What taking the image away does to the logits, and what follows for this check."""
    effect, allowed = report.image_effect, report.threshold.relative_l2
    if effect is None:
        return (
            "How far the image reaches into the answer was not measured, because there is no golden decoder case: "
            "this page does not say whether the visual memory was put to the test."
        )
    moved = f"Taking the image away moves the logits by {words.figure(effect)} (relative L2), "
    if report.threshold.quality:
        return moved + "which the accuracy on the data puts to the test."
    if not effect >= 10 * allowed:
        return moved + "too little against the limit: this comparison could hardly see a fault in the visual memory."
    return moved + (
        f"{words.times(effect / allowed)} times the limit: the answers depend on the image, and a fault in the visual "
        "memory would show."
    )


def parting(answer: AnswerResult) -> str:
    """Where two token sequences part, and by how much the reference preferred its own token; empty where they do not
    part."""
    at = parted_at(answer.tokens, answer.expected_tokens)
    if at is None:
        return ""
    if at == min(len(answer.tokens), len(answer.expected_tokens)):
        text = f"{len(answer.tokens)} tokens instead of {len(answer.expected_tokens)}, the common ones are the same"
    else:
        text = f"from token {at + 1} on: id {answer.tokens[at]} instead of {answer.expected_tokens[at]}"
    if answer.margin is None:
        return text
    verdict = "a near tie" if answer.passed else "decisive"
    return f"{text}; the reference's margin is {words.figure(answer.margin)}, {verdict}"


def first_answers(answers: Sequence[AnswerResult], count: int) -> list[AnswerResult]:
    """At most count answers; where some are left out, those that fail come first, then those that differ."""
    if len(answers) <= count:
        return list(answers)
    return sorted(answers, key=lambda answer: (answer.passed, answer.same))[:count]
