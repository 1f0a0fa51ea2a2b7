"""Figures against plain statements of their formulas, and warnings that fire where they should and only there."""

import math
import random
from collections.abc import Sequence

import pytest
from memvp_export.exporter.bench.figures import DRIFT_LIMIT, SPREAD_LIMIT, doubts, figures_of
from memvp_export.exporter.bench.rounds import Samples
from memvp_export.exporter.session import Timing

USUAL = (50, 90, 95, 99)


def between(seconds: Sequence[float], percentile: float) -> float:
    """The value at the fractional rank (n - 1) p / 100 of the sorted calls, on the line between its neighbours."""
    ordered = sorted(seconds)
    rank = (len(ordered) - 1) * percentile / 100
    low, high = ordered[math.floor(rank)], ordered[math.ceil(rank)]
    return low + (high - low) * (rank - math.floor(rank))


@pytest.mark.parametrize("count", [20, 21, 100, 137, 1000])
def test_percentiles_are_those_of_the_formula(count: int) -> None:
    seconds = [random.Random(count).lognormvariate(0, 1) for _ in range(count)]
    figures = figures_of(Samples(1.0, seconds), USUAL)
    for percentile in USUAL:
        found, known = figures.percentiles[f"p{percentile}"], count * (100 - percentile) / 100 >= 1
        assert (found == pytest.approx(between(seconds, percentile))) if known else found is None
    assert figures.median == pytest.approx(between(seconds, 50))
    assert figures.mean == pytest.approx(sum(seconds) / count) and figures.lowest == min(seconds)
    assert figures.spread == pytest.approx((between(seconds, 75) - between(seconds, 25)) / between(seconds, 50))


def test_a_tail_needs_a_call_above_it() -> None:
    for count, known in ((1, set()), (2, {"p50"}), (10, {"p50", "p90"}), (99, {"p50", "p90", "p95"}), (100, None)):
        found = figures_of(Samples(1.0, [1.0] * count), USUAL).percentiles
        assert {name for name, value in found.items() if value is not None} == (set(found) if known is None else known)
    assert figures_of(Samples(1.0, [1.0] * 1000), [99.9]).percentiles == {"p99.9": 1.0}


def test_drift_compares_the_halves() -> None:
    assert figures_of(Samples(1.0, [1.0, 1.0, 1.0, 1.5, 1.5, 1.5]), USUAL).drift == pytest.approx(0.5)
    assert figures_of(Samples(1.0, [2.0, 2.0, 7.0, 1.0, 1.0]), USUAL).drift == pytest.approx(-0.5)
    assert figures_of(Samples(1.0, [2.0]), USUAL).drift == 0


def test_a_steady_lane_raises_no_doubt_and_a_drifting_one_does() -> None:
    noise = random.Random(0)
    steady = [1 + noise.uniform(-0.05, 0.05) for _ in range(40)]
    assert doubts(figures_of(Samples(50.0, steady), USUAL)) == []
    drifting = [value * (1 + 4 * DRIFT_LIMIT * index / 40) for index, value in enumerate(steady)]
    (found,) = doubts(figures_of(Samples(1.0, drifting), USUAL))
    assert "later half" in found and "+1" in found
    (found,) = doubts(figures_of(Samples(1.0, drifting[::-1]), USUAL))
    assert "later half" in found and "-" in found


def test_scattered_and_few_calls_raise_doubts() -> None:
    scattered = [1.0, 1 + 2 * SPREAD_LIMIT] * 20
    (found,) = doubts(figures_of(Samples(1.0, scattered), USUAL))
    assert "spreads over" in found
    (found,) = doubts(figures_of(Samples(1.0, [1.0] * 5), USUAL))
    assert "only 5 calls" in found


def test_the_parts_of_the_time_are_means_and_missing_on_a_cpu() -> None:
    timings = [Timing(0.1, 0.2, 0.3, 0.4), Timing(0.3, 0.4, 0.5, 0.6)]
    parts = figures_of(Samples(1.0, [1.0, 1.8], timings), USUAL).parts
    assert parts == pytest.approx({"host": 0.2, "h2d": 0.3, "gpu": 0.4, "d2h": 0.5})
    assert figures_of(Samples(1.0, [1.0]), USUAL).parts is None
