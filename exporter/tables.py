"""Results of commands as tables on standard output."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .console import size, table
from .parity.quality import summary

if TYPE_CHECKING:
    from .doctor import Check
    from .parity.page_demo import Accuracy
    from .parity.report import Report
    from .ranking import Ranking
    from .scienceqa import Accuracy as SubsetAccuracy

_RANKED = 20


def print_plan(plan: Mapping[str, Any]) -> None:
    """The dry run of an export: `Plan.to_dict`."""
    rows = [(part["name"], part["weights"], size(part["bytes"]), part["file"]) for part in plan["components"]]
    rows.append(("golden samples", "", size(plan["golden_bytes"]), "samples/golden.npz"))
    title = f"{plan['family']}, {plan['precision']}, opset {plan['opset']}"
    table(title, ("component", "weights", "size", "file"), rows)


def print_parity(report: "Report") -> None:
    """Every compared output, and how many answers agreed."""
    rows = [
        (
            result.component,
            result.case,
            result.output,
            f"{result.distance.relative_l2:.1e}",
            f"{result.distance.max:.1e}",
            f"{result.distance.mean:.1e}",
            f"{result.distance.p99:.1e}",
            f"{result.distance.cosine:.6f}",
            f"{result.agreement.top1:.4f}" if result.agreement else "",
            "ok" if result.passed else "FAILED",
        )
        for result in report.outputs
    ]
    columns = ("component", "case", "output", "rel. L2", "max", "mean", "p99", "cosine", "top-1", "")
    table(f"{report.bundle} on {report.backend}, {report.precision}", columns, rows)
    if report.answers:
        same = sum(answer.same for answer in report.answers)
        judged = [answer.correct for answer in report.answers if answer.correct is not None]
        print(f"greedy answers equal to the reference's: {same} of {len(report.answers)}")
        if judged:
            print(f"answers that are right: {sum(judged)} of {len(judged)}")
    if report.quality:
        print(f"all of the data: {summary(report.quality)}")


def print_subsets(scores: "Mapping[str, SubsetAccuracy]") -> None:
    """An official table: percent right in each subset."""
    rows = [(name, f"{row.percent:.2f}" if row.total else "", row.total) for name, row in scores.items()]
    table("official accuracy", ("subset", "percent", "questions"), rows)


def print_rankings(rankings: "Sequence[Ranking]") -> None:
    """Of one query, every pair from the best down; of several, the best of each. Not more than _RANKED lines."""
    if len(rankings) == 1:
        (only,) = rankings
        places = [(place, pair.id, f"{pair.score:.6g}") for place, pair in enumerate(only.pairs, 1)]
        table(f"{only.by}: {only.query}", ("rank", "id", "score"), places[:_RANKED])
        left_out = len(places) - _RANKED
    else:
        best = [(one.by, one.query, one.pairs[0].id, f"{one.pairs[0].score:.6g}", len(one.pairs)) for one in rankings]
        table("", ("query", "", "best id", "score", "of"), best[:_RANKED])
        left_out = len(best) - _RANKED
    if left_out > 0:
        print(f"... and {left_out} more: --json has all")


def print_checks(checks: "Sequence[Check]") -> None:
    """What the doctor found."""
    rows = [(one.status, one.name, one.detail, one.fix) for one in checks]
    table("doctor", ("status", "what", "found", "fix"), rows)


def print_demo(accuracy: "Sequence[Accuracy]", blind: "Accuracy") -> None:
    """Held-out questions of the demo, answered with and without their images."""
    rows = [(row.name, row.total, f"{row.share:.1%}", f"{row.majority:.1%}") for row in accuracy]
    columns = ("held-out questions", "asked", "right", "always the commonest answer")
    table("", columns, [*rows, ("without the images", blind.total, f"{blind.share:.1%}", "")])
