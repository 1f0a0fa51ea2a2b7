"""Figures against values worked out by hand."""

import math

import numpy as np
import pytest
from memvp_export.exporter.parity.metrics import Agreement, Distance, distance, divergences, margins, top1_agreement

INF = math.inf


def array(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


WORST = Distance(INF, INF, INF, -1.0, INF, False)
DISTANCES: dict[str, tuple[np.ndarray, np.ndarray, Distance]] = {
    "equal": (array(3, 4), array(3, 4), Distance(0, 0, 0, 1, 0, True)),
    # Differences 1 and 7, product 0.
    "orthogonal": (array(3, 4), array(4, -3), Distance(7, 4, 6.94, 0, math.sqrt(50) / 5, True)),
    "opposite": (array(3, 4), array(-3, -4), Distance(8, 7, 7.98, -1, 2, True)),
    "twice as long": (array(6, 8), array(3, 4), Distance(4, 3.5, 3.99, 1, 1, True)),
    "all zero": (array(0, 0), array(0, 0), Distance(0, 0, 0, 1, 0, True)),
    "zero instead of a value": (array(0, 0), array(3, 4), Distance(4, 3.5, 3.99, 0, 1, True)),
    "a value instead of zero": (array(3, 4), array(0, 0), Distance(4, 3.5, 3.99, 0, INF, True)),
    "NaN": (array(3, math.nan), array(3, 4), WORST),
    "infinite": (array(3, INF), array(3, 4), WORST),
    "infinite on both sides": (array(3, INF), array(3, INF), WORST),
    "NaN in the reference": (array(3, 4), array(3, math.nan), WORST),
    "NaN on both sides": (array(math.nan), array(math.nan), WORST),
    "empty": (array(), array(), WORST),
}


@pytest.mark.parametrize(("actual", "expected", "found"), DISTANCES.values(), ids=list(DISTANCES))
def test_distance(actual: np.ndarray, expected: np.ndarray, found: Distance) -> None:
    result = distance(actual, expected)
    for name, value in vars(found).items():
        assert getattr(result, name) == pytest.approx(value, abs=1e-12), name


def test_the_99th_percentile_leaves_one_outlier_in_a_thousand_out() -> None:
    actual = np.zeros(1000, np.float32)
    actual[7] = 100
    found = distance(actual, np.zeros(1000, np.float32))
    assert (found.max, found.mean, found.p99) == (100, 0.1, 0)


def test_halves_are_compared_in_double() -> None:
    found = distance(np.full(100, 60000, np.float16), np.full(100, -60000, np.float16))
    assert found.max == pytest.approx(2 * 59999, rel=1e-3) and found.relative_l2 == 2


@pytest.mark.parametrize(("first", "second"), [((2, 3), (3, 2)), ((6,), (2, 3)), ((1,), (6,))])
def test_arrays_of_different_shapes_have_no_distance(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        distance(np.zeros(first), np.zeros(second))


# Standard deviation of each row: sqrt(2) / 3 = 0.471.
EXPECTED = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0.9, 1, 0]]], np.float32)
# Of all rows, how many are decisive, of those.
AGREEMENTS: dict[str, tuple[np.ndarray, float, tuple[float, int, float]]] = {
    "equal": (EXPECTED, 0.1, (1.0, 4, 1.0)),
    "a near tie that fell the other way": (EXPECTED + array(0.2, 0, 0), 0.5, (0.75, 3, 1.0)),
    "the same tie, where it counts": (EXPECTED + array(0.2, 0, 0), 0.1, (0.75, 4, 0.75)),
    "one clear row wrong": (EXPECTED * array(1, -1, 1), 0.5, (0.5, 3, 2 / 3)),
    "no row clear": (EXPECTED, 100, (1.0, 0, 1.0)),
}


@pytest.mark.parametrize(("actual", "margin", "found"), AGREEMENTS.values(), ids=list(AGREEMENTS))
def test_top1_agreement(actual: np.ndarray, margin: float, found: tuple[float, int, float]) -> None:
    result = top1_agreement(actual, EXPECTED, margin)
    assert (result.top1, result.decisive, result.decisive_top1) == pytest.approx(found)


def test_one_token_is_no_contest() -> None:
    assert top1_agreement(np.zeros((2, 1)), np.zeros((2, 1)), 0.1) == Agreement(1.0, 0, 1.0, 2, 0.0)


def test_nothing_agrees_where_nothing_was_compared() -> None:
    assert top1_agreement(np.zeros((0, 3)), np.zeros((0, 3)), 0.1) == Agreement(0.0, 0, 0.0, 0, np.inf)


def test_margins_are_in_standard_deviations_of_the_row() -> None:
    logits = np.array([[[3, 1, 2], [0, 0, 0]], [[1, 5, 1], [7, 7, 0]]], np.float32)
    assert margins(logits) == pytest.approx(np.array([[1 / np.sqrt(2 / 3), 0], [4 / np.sqrt(32 / 9), 0]]))
    assert margins(10 * logits + 3) == pytest.approx(margins(logits))
    assert margins(np.zeros((2, 1))).tolist() == [0, 0]


def test_divergence_is_that_of_the_two_distributions() -> None:
    p, q = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), np.array([[0.2, 0.6, 0.2], [0.1, 0.1, 0.8]])
    # A constant added to a row of logits changes no probability.
    found = divergences(np.log(q) + 7, np.log(p))
    assert found == pytest.approx(np.array([(p[0] * np.log(p[0] / q[0])).sum(), 0]))
    agreement = top1_agreement(np.log(q), np.log(p), 0.1)
    assert agreement.kl == pytest.approx(found.mean()) and agreement.rows == 2
    assert divergences(np.array([[np.nan, 0], [np.inf, 0]]), np.zeros((2, 2))).tolist() == [np.inf, np.inf]
