"""Damage of outputs."""

import numpy as np
import pytest
from memvp_export.calibration.damage import damage


def test_damage_of_logits() -> None:
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.2, 0.6, 0.2]])
    found = damage([("logits", np.log(q), np.log(p))])
    assert found.kl == pytest.approx(float((p * np.log(p / q)).sum()))
    assert found.top1 == 0.0
    same = damage([("logits", np.log(p), np.log(p)), ("score", np.ones((1, 1)), np.ones((1, 1)))])
    assert (same.relative_l2, same.kl, same.top1) == (0.0, 0.0, 1.0)


def test_other_outputs_have_no_kl() -> None:
    found = damage([("score", np.array([[1.1]]), np.array([[1.0]]))])
    assert found.relative_l2 == pytest.approx(0.1) and found.kl is None and found.top1 is None


def test_a_large_output_hides_no_small_one() -> None:
    """The mean of each output's own: over all of an output's arrays together."""
    ones = np.ones((2, 2))
    outputs = [("sample", 1000 * ones, 1000 * ones), ("score", 1.3 * ones, ones), ("score", 3.7 * ones, 4 * ones)]
    expected = np.sqrt((0.3**2 + 0.3**2) / (1 + 4**2)) / 2
    assert damage(outputs).relative_l2 == pytest.approx(expected)
