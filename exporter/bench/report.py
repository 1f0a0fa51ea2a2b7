"""What a bench found, as data that can be written, read again and compared."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import EnvironmentLack, InputError
from .figures import Figures
from .loads import UNET, Load

FORMAT = "memvp-export bench"
SCHEMA = 1


@dataclass(frozen=True)
class Result:
    """A load on a lane. speedup: the first lane's median over this one's; gpu_speedup: the same of the GPU's own time,
    where both know it; per_second: tokens or images, over all measured calls."""

    lane: str
    load: Load
    figures: Figures
    per_second: float
    speedup: float | None = None
    gpu_speedup: float | None = None


@dataclass(frozen=True)
class Compared:
    """A load on the same backend here and in what it is compared with: medians in seconds. ratio: how many times
    faster it is here."""

    backend: str
    load: Load
    here: float
    other: float

    @property
    def ratio(self) -> float:
        """Above 1: faster here."""
        return self.other / self.here


@dataclass
class BenchReport:
    """Lanes are what `Lane.record` says; state is that of the machine before and after. warnings name the
    results that are not to be trusted, and why; notes are what a reader has to know besides. compared_with names the
    other bundle or report."""

    machine: dict[str, str]
    state: list[dict[str, str]]
    options: dict[str, Any]
    lanes: list[dict[str, Any]]
    results: list[Result] = field(default_factory=list)
    compared_with: str | None = None
    compared: list[Compared] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """One line: what was measured, the latency of the stage that most of the time goes to on every lane (the last
        one, or of images the U-Net), and whether to trust it."""
        one_at_a_time = [result for result in self.results if result.load.mode == "latency"]
        drawing = [result for result in one_at_a_time if result.load.stage == UNET]
        most = [result for result in one_at_a_time if result.load == (drawing or one_at_a_time)[-1].load]
        shown = ", ".join(f"{result.lane} {1e3 * result.figures.median:.3g} ms" for result in most)
        doubt = f"; {len(self.warnings)} of {len(self.results)} measurements are not stable" if self.warnings else ""
        return f"measured: {most[0].load.title}: {shown}{doubt}" if most else "nothing was measured"

    def to_dict(self) -> dict[str, Any]:
        """JSON data; `from_dict` reads it back."""
        compared = [asdict(each) | {"ratio": each.ratio} for each in self.compared]
        return {
            "format": FORMAT, "schema": SCHEMA, **asdict(self), "compared": compared, "verdict": self.verdict
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "BenchReport":
        """The inverse of `to_dict`. Raises KeyError or TypeError where something is missing."""
        results = [
            Result(**{**each, "load": Load(**each["load"]), "figures": Figures(**each["figures"])})
            for each in data["results"]
        ]
        compared = [
            Compared(each["backend"], Load(**each["load"]), each["here"], each["other"]) for each in data["compared"]
        ]
        names = ("machine", "state", "options", "lanes", "compared_with", "warnings", "notes")
        return cls(**{name: data[name] for name in names}, results=results, compared=compared)


def read_report(path: Path) -> BenchReport:
    """A report that `--json` wrote. Raises InputError where the file is none, or of a newer schema."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is neither a bundle nor a whole JSON report ({error}).") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(f"{path} is no report of `memvp-export bench --json`.")
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(f"{path} has schema {schema}, this tool reads up to {SCHEMA}. Upgrade memvp-export.")
    try:
        return BenchReport.from_dict(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is edited: it is not what `memvp-export bench --json` wrote ({error!r}).") from error


def with_speedups(results: list[Result]) -> list[Result]:
    """The results of one load, with ratios against the first of them."""
    first = results[0].figures
    return [
        replace(result, speedup=first.median / result.figures.median, gpu_speedup=_gpu_ratio(first, result.figures))
        for result in results
    ]


def _gpu_ratio(first: Figures, other: Figures) -> float | None:
    return first.parts["gpu"] / other.parts["gpu"] if first.parts and other.parts else None
