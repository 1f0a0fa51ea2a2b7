"""What bisecting a bundle found: in each component where the error enters, and what may repair it."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from .report import plain

# The most of one kind that are told.
SHOWN = 5


@dataclass(frozen=True)
class NodeError:
    """A node whose output is over the tolerance: relative L2 of its worst output, and of each input and weight that
    could be compared. problem says what is known of the cause; a repairable one may yield to float32."""

    node: str
    module: str
    op: str
    error: float
    inputs: dict[str, float]
    weights: dict[str, float] = field(default_factory=dict)
    problem: str = ""
    repairable: bool = True


@dataclass(frozen=True)
class ComponentErrors:
    """What was found in one component.

    entries are the nodes whose inputs are within the tolerance while their output is not, in order; `first` is the
    first of them. modules holds the worst ones by error. faded are nodes over the tolerance whose readers are all
    within it again. keep_fp32 are patterns of modules that float32 may repair; repaired says whether nothing left the
    tolerance when the graph was traced again with them, None where that was not tried. left are layers that an error
    enters at too and that were not looked into.
    """

    component: str
    compared: int
    entries: list[NodeError]
    modules: dict[str, float]
    faded: dict[str, float]
    keep_fp32: list[str]
    unpaired: list[str]
    repaired: bool | None = None
    left: list[str] = field(default_factory=list)

    @property
    def first(self) -> NodeError | None:
        """Where the error enters first; None where nothing leaves the tolerance."""
        return self.entries[0] if self.entries else None


@dataclass
class BisectReport:
    """What `bisect` found. limit is the relative L2 that a tensor may have."""

    bundle: str
    precision: str
    limit: float
    reference: str
    components: list[ComponentErrors] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all tensors were compared and none leaves the tolerance."""
        return bool(self.components) and not any(part.first or part.unpaired for part in self.components)

    @property
    def first(self) -> NodeError | None:
        """The first node of the first component that leaves the tolerance."""
        return next((part.first for part in self.components if part.first), None)

    @property
    def verdict(self) -> str:
        """One line: the first node, or that there is none."""
        for part in self.components:
            if part.first:
                return f"{part.component}: the error enters at {part.first.node} ({figure(part.first.error)})"
        if any(part.unpaired for part in self.components):
            return "nothing that could be compared leaves the tolerance, but some nodes could not"
        return f"nothing leaves the tolerance of {figure(self.limit)}"

    def to_dict(self) -> dict[str, Any]:
        """JSON data; figures that are not finite, which JSON cannot say, are None."""
        parts = [{**asdict(part), "first": part.first and part.first.node} for part in self.components]
        return plain({**asdict(self), "components": parts, "passed": self.passed, "verdict": self.verdict})


def figure(error: float) -> str:
    """A relative error in words."""
    return f"{error:.1e}" if isfinite(error) else "not finite"
