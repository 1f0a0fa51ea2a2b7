"""What bisecting a bundle found, as text to print."""

from collections.abc import Iterable
from itertools import islice

from .bisect_report import SHOWN, BisectReport, ComponentErrors, NodeError, figure

_TRIED = {
    None: "a suggestion, not tried",
    True: "tried, with these nothing leaves the tolerance",
    False: "tried, and not enough",
}


def lines(report: BisectReport) -> list[str]:
    """The report as text to print; the last line is the verdict."""
    text = [f"{report.bundle} in {report.precision}, limit {figure(report.limit)}, against {report.reference}"]
    for part in report.components:
        if part.first is None:
            text.append(f"{part.component}: {part.compared} tensors, nothing leaves the tolerance")
        else:
            text += _component_lines(part, part.first)
        if part.faded:
            shown = _listed(part.faded.items())
            text.append(f"  over the tolerance, while all that reads them is within ({len(part.faded)}): {shown}")
    text += [f"note: {note}" for note in report.notes]
    return [*text, report.verdict]


def _component_lines(part: ComponentErrors, first: NodeError) -> list[str]:
    text = [
        f"{part.component}: the error enters at {first.node}",
        f"  module {first.module}, operator {first.op}, relative L2 {figure(first.error)}",
    ]
    text += [f"  its input {name}: {figure(error)}" for name, error in first.inputs.items()]
    text += [f"  its weight {name}: {figure(error)}" for name, error in first.weights.items()]
    if first.problem:
        text.append(f"  {first.problem}")
    if more := part.entries[1:]:
        shown = _listed((entry.node, entry.error) for entry in more)
        text.append(f"  further on, an error enters anew at {len(more)}: {shown}")
    text.append(f"  worst modules: {_listed(part.modules.items())}")
    if part.keep_fp32:
        patterns = " ".join(f"--keep-fp32 '{pattern}'" for pattern in part.keep_fp32)
        text.append(f"  {_TRIED[part.repaired]}: {patterns}")
    return text


def _listed(errors: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {figure(error)}" for name, error in islice(errors, SHOWN))
