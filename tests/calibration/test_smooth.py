"""SmoothQuant's factors and their search."""

import numpy as np
import pytest
from memvp_export.calibration.modes import MODES
from memvp_export.calibration.observers import Observer
from memvp_export.calibration.smooth import factors_of, search, squared_error

SINGLE = np.dtype(np.float32)


def _outliers() -> tuple[Observer, np.ndarray]:
    """Values with four channels that are twenty times as large as the others, and a matrix."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((400, 64)).astype(np.float32)
    rows[:, :4] *= 20
    observer = Observer(64)
    observer.update(rows, generator.random(400), "x")
    return observer, generator.standard_normal((64, 48)).astype(np.float32)


def test_factors_are_the_formula() -> None:
    a, w = np.array([4.0, 1.0, 9.0]), np.array([1.0, 2.0, 0.5])
    formula = a**0.6 / w**0.4
    assert np.allclose(factors_of(a, w, 0.6), formula / np.prod(formula) ** (1 / 3), rtol=1e-6)


def test_channels_of_zeros_are_left_alone() -> None:
    factors = factors_of(np.array([0.0, 5.0, 2.0]), np.array([1.0, 0.0, 3.0]), 0.5)
    assert factors[:2].tolist() == [1.0, 1.0] and np.isfinite(factors).all()


@pytest.mark.parametrize("method", ["max", "mse"])
def test_outliers_are_smoothed_to_less_than_half_the_error(method: str) -> None:
    observer, weight = _outliers()
    found = search(observer, {"layer": weight}, MODES["int8"], method, SINGLE)
    plain = squared_error(observer, weight, MODES["int8"], "max", SINGLE)
    assert found.alpha > 0
    assert squared_error(observer, weight, MODES["int8"], method, SINGLE, found.factors) < plain / 4
    assert found.errors[found.alpha] == min(found.errors.values())


def test_what_needs_no_smoothing_gets_none_that_hurts() -> None:
    observer, weight = _outliers()
    found = search(observer, {"layer": weight}, MODES["int8-weights"], "max", SINGLE)
    assert found.errors[found.alpha] <= found.errors[0.0]
