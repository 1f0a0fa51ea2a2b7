"""What the figures of a report come to: failures, and notes on what they cannot show."""

from .quality import shortfalls, unsure
from .report import Report


def judge(report: Report) -> None:
    """Write down every failure and every caveat that follows from the compared outputs and answers. Those on single
    positions and small errors mean nothing where a quantized model is judged by all its answers."""
    for result in report.outputs:
        if not result.passed:
            found = result.distance
            reason = result.problem or f"relative L2 {found.relative_l2:.2e}, cosine {found.cosine:.6f}"
            if result.agreement is not None and report.threshold.quality:
                reason += f", KL {result.agreement.kl:.2e} nats"
            report.failures.append(f"{result.component} {result.output} ({result.case}): {reason}")
    report.failures += [f"{name}: nothing of it was compared" for name in report.uncompared]
    _judge_answers(report)
    _judge_quality(report)
    if report.threshold.quality:
        return
    agreements = [result.agreement for result in report.outputs if result.agreement is not None]
    if agreements and not any(agreement.decisive for agreement in agreements):
        report.notes.append(
            f"no position was decisive (margin {report.threshold.margin:g}): top-1 agreement says nothing here"
        )
    if report.image_effect is not None and report.image_effect < 10 * report.threshold.relative_l2:
        report.notes.append(
            f"taking the image away moves the logits by {report.image_effect:.1e} only: this comparison could hardly "
            "see a fault in the visual memory"
        )


def _judge_quality(report: Report) -> None:
    limit = report.threshold.quality
    if limit is None:
        return
    if report.quality is None:
        report.failures.append(
            f"whether {report.precision} keeps the answers was not shown: give --data, questions like those of its use"
        )
        return
    report.failures += shortfalls(report.quality, limit)
    if doubt := unsure(report.quality, limit):
        report.notes.append(doubt)


def _judge_answers(report: Report) -> None:
    total = len(report.answers)
    if wrong := [result for result in report.answers if not result.passed]:
        first = f"{wrong[0].id}: {wrong[0].answer!r} instead of {wrong[0].expected!r}"
        report.failures.append(f"{len(wrong)} of {total} greedy answers differ from the reference ({first})")
    if near := sum(result.passed and not result.same for result in report.answers):
        why = f" where the reference's own choice was a near tie (margin at most {report.threshold.margin:g})"
        together = ": all of them are judged together" if report.threshold.quality else why
        report.notes.append(f"{near} of {total} greedy answers differ{together}")
