"""What a check found: figures per output, answers per sample, and one verdict that fails closed."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from .quality import Quality, summary
from .results import AnswerResult, OutputResult
from .thresholds import Threshold

GOLDEN = "the golden samples recorded from the source"
SOURCE = "the source, run anew in PyTorch"
GRAPH_ONLY = "PyTorch on the bundle's own weights (graph parity only)"


@dataclass
class Report:
    """What `check` found on a bundle with these components. passed is False wherever anything was not shown. quality is
    of the data file, where one was given."""

    bundle: str
    family: str
    backend: str
    precision: str
    threshold: Threshold
    components: list[str]
    outputs: list[OutputResult] = field(default_factory=list)
    answers: list[AnswerResult] = field(default_factory=list)
    image_effect: float | None = None
    quality: Quality | None = None
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True only where something of every component was compared and nothing failed."""
        return bool(self.outputs) and not self.uncompared and not self.failures

    @property
    def uncompared(self) -> list[str]:
        """The components of which no output was compared."""
        compared = {result.component for result in self.outputs}
        return [name for name in self.components if name not in compared]

    @property
    def on_twin(self) -> bool:
        """Whether the figures are those of a float32 twin, where nothing runs the precision itself."""
        return self.precision == "bf16" and self.backend == "onnxruntime"

    @property
    def kinds(self) -> list[str]:
        """The references that were compared with, each once."""
        return list(dict.fromkeys([*(r.reference for r in self.outputs), *(a.reference for a in self.answers)]))

    @property
    def graph_only(self) -> list[str]:
        """The components of which no output was compared with anything but PyTorch on the bundle's own weights: whether
        those are the source's is not known of them."""
        kinds: dict[str, set[str]] = {}
        for result in self.outputs:
            kinds.setdefault(result.component, set()).add(result.reference)
        return [name for name in self.components if kinds.get(name) == {GRAPH_ONLY}]

    @property
    def verdict(self) -> str:
        """One line: yes or no, against what, and the worst figure."""
        if not self.outputs:
            return "NO PARITY SHOWN: nothing could be compared"
        worst = max(self.outputs, key=lambda result: result.distance.relative_l2)
        figure = f"worst relative L2 {worst.distance.relative_l2:.1e} ({worst.component} {worst.output})"
        against = " and ".join(self.kinds)
        if self.failures:
            no = f"{self.precision.upper()} NOT ACCEPTED" if self.threshold.quality else "PARITY FAILED"
            return f"{no} against {against}: {self.failures[0]}"
        if not self.passed:
            return f"NO PARITY SHOWN: nothing was compared of {', '.join(self.uncompared)}"
        if self.graph_only and self.kinds != [GRAPH_ONLY]:
            against += f" (graph parity only: {', '.join(self.graph_only)})"
        if self.threshold.quality and self.quality:
            return f"{self.precision.upper()} ACCEPTED against {against}: {summary(self.quality)}; {figure}"
        numerics = " (bf16 numerics not run: its float32 twin was)" if self.on_twin else ""
        return f"PARITY against {against}: {figure}, limit {self.threshold.relative_l2:.0e}{numerics}"

    def to_dict(self) -> dict[str, Any]:
        """JSON data; figures that are not finite, which JSON cannot say, are None."""
        return plain(
            {**asdict(self), "passed": self.passed, "verdict": self.verdict, "kinds": self.kinds}
            | {"graph_only": self.graph_only}
        )


def plain(value: Any) -> Any:
    """The value as JSON can say it: figures that are not finite are None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
