"""What is kept of values that stream by."""

import numpy as np
import pytest
from memvp_export.calibration.observers import BINS, ROWS, Histogram, Observer
from memvp_export.exporter.errors import InputError


def _histogram(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.update(np.abs(part))
    return histogram


def test_counts_do_not_depend_on_order_or_batches() -> None:
    values = (np.random.default_rng(0).standard_normal(5000) ** 5).astype(np.float32)
    whole, parts = _histogram(values), _histogram(*np.array_split(values[::-1], 7))
    assert np.array_equal(whole.counts, parts.counts)
    assert (whole.largest, whole.width) == (parts.largest, parts.width)


def test_a_bin_holds_the_values_within_its_width() -> None:
    values = np.random.default_rng(1).uniform(0, 3, 1000).astype(np.float32)
    histogram = _histogram(np.zeros(5, np.float32), values)
    expected = np.bincount(np.floor(values / histogram.width).astype(int), minlength=BINS)
    expected[0] += 5
    assert np.array_equal(histogram.counts, expected)


def test_a_value_at_the_end_of_the_range_has_a_bin() -> None:
    histogram = _histogram(np.array([4.0], np.float32))
    assert histogram.counts.sum() == 1 and histogram.largest == 4.0


def test_channels_and_rows() -> None:
    rows = np.random.default_rng(2).standard_normal((300, 6)).astype(np.float32)
    priorities = np.random.default_rng(3).random(300)
    observer = Observer(6)
    for part in range(3):
        observer.update(rows[part::3], priorities[part::3], "x")
    assert np.array_equal(observer.maxima, np.abs(rows).max(0))
    assert np.allclose(observer.mean_squares, np.square(rows, dtype=np.float64).mean(0))
    assert np.array_equal(observer.rows, rows[np.argsort(priorities)[:ROWS]])


def test_values_are_divided_first() -> None:
    rows = np.array([[2.0, 8.0]], np.float32)
    observer = Observer(2, np.array([2.0, 4.0], np.float32))
    observer.update(rows, np.zeros(1), "x")
    assert observer.maxima.tolist() == [1.0, 2.0]


def test_a_restored_observer_goes_on_as_the_first_would_have() -> None:
    rows = np.random.default_rng(4).standard_normal((200, 3)).astype(np.float32)
    priorities = np.random.default_rng(5).random(200)
    first, second = Observer(3), Observer(3)
    first.update(rows[:90], priorities[:90], "x")
    second.restore(first.state())
    for observer in (first, second):
        observer.update(50 * rows[90:], priorities[90:], "x")
    assert all(np.array_equal(value, second.state()[key]) for key, value in first.state().items())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    rows = np.array([[1.0, bad]], np.float32)
    with pytest.raises(InputError, match=r"layer.*not finite"):
        Observer(2).update(rows, np.zeros(1), "layer")
