"""Where ranges are cut."""

import numpy as np
import pytest
from memvp_export.calibration.modes import FP8, INT8
from memvp_export.calibration.observers import Histogram
from memvp_export.calibration.ranges import check_method, clip_of
from memvp_export.exporter.errors import InputError

VALUES = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
OUTLIERS = np.concatenate([VALUES, np.array([60.0, -60.0], np.float32)])


def _clip(values: np.ndarray, method: str, number: object = INT8) -> float:
    histogram = Histogram()
    histogram.update(np.abs(values))
    return clip_of(histogram, method, number)  # type: ignore[arg-type]


def test_max_is_the_largest_magnitude() -> None:
    assert _clip(OUTLIERS, "max") == 60.0


def test_percentile_is_that_of_the_magnitudes() -> None:
    assert _clip(VALUES, "percentile") == pytest.approx(np.percentile(np.abs(VALUES), 99.99), rel=1e-2)


def test_mse_gives_the_least_squared_error_of_all_clips() -> None:
    def error(clip: float) -> float:
        scale = clip / 127
        return float(np.square(OUTLIERS - np.clip(np.rint(OUTLIERS / scale), -128, 127) * scale).mean())

    found = _clip(OUTLIERS, "mse")
    assert error(found) <= min(error(clip) for clip in np.linspace(2, 60, 60)) * 1.02
    assert found < 50


def test_fp8_hardly_needs_a_cut() -> None:
    # Its steps are relative: a large value makes small ones no coarser, so that cutting costs more than it gives.
    assert _clip(OUTLIERS, "mse", FP8) > 30


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_nothing_but_zeros_has_the_range_0(method: str) -> None:
    assert _clip(np.zeros(10, np.float32), method) == 0.0


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="max, percentile, mse"):
        check_method("entropy")
