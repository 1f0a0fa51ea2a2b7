"""Figures of a load from its samples, and the reasons not to trust them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean, median

import numpy as np

from ..session import Timing
from .options import FEWEST_CALLS
from .rounds import Samples

# The middle half of the calls spread over this share of the median.
SPREAD_LIMIT = 0.2
# The median of the later half of the calls moved by this share against the earlier half's.
DRIFT_LIMIT = 0.1


@dataclass(frozen=True)
class Figures:
    """Seconds. first: the first call, which opens, compiles or allocates. percentiles by name ("p90"), None where so
    few calls cannot show it: none of them would lie above. spread: interquartile range over median; drift: the later
    half's median over the earlier half's, less 1. parts: means of the fields of `session.Timing`, or None.
    """

    calls: int
    first: float
    mean: float
    lowest: float
    median: float
    percentiles: dict[str, float | None]
    spread: float
    drift: float
    parts: dict[str, float] | None


def figures_of(samples: Samples, percentiles: Sequence[float]) -> Figures:
    """The figures of at least one call; percentiles are interpolated linearly between the sorted calls."""
    seconds = samples.seconds
    half = len(seconds) // 2
    middle = median(seconds)
    low, high = np.percentile(seconds, [25, 75])
    return Figures(
        calls=len(seconds),
        first=samples.first,
        mean=fmean(seconds),
        lowest=min(seconds),
        median=middle,
        percentiles={f"p{each:g}": _percentile(seconds, each) for each in percentiles},
        spread=float(high - low) / middle if middle else 0.0,
        drift=median(seconds[-half:]) / median(seconds[:half]) - 1 if half else 0.0,
        parts=_parts(samples),
    )


def _percentile(seconds: Sequence[float], percentile: float) -> float | None:
    # In hundredths of a call, so that 99.9 of 1000 is not lost to rounding.
    above = round(len(seconds) * (100 - percentile), 6)
    return float(np.percentile(seconds, percentile)) if above >= 100 else None


def _parts(samples: Samples) -> dict[str, float] | None:
    if not samples.parts:
        return None
    return {field.name: fmean(getattr(each, field.name) for each in samples.parts) for field in fields(Timing)}


def doubts(figures: Figures) -> list[str]:
    """Why the figures may not be what the machine gives the next time; empty where nothing speaks against them."""
    found = []
    if figures.calls < FEWEST_CALLS:
        found.append(f"only {figures.calls} calls were measured: fewer than {FEWEST_CALLS} say little")
    if figures.spread > SPREAD_LIMIT:
        found.append(f"the middle half of the calls spreads over {figures.spread:.0%} of the median")
    if abs(figures.drift) > DRIFT_LIMIT:
        found.append(f"the later half of the calls took {figures.drift:+.0%} against the earlier one")
    return found
