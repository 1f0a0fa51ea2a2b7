"""Shares of right answers and how sure they are."""

import numpy as np
import pytest
from memvp_export.calibration.accuracy import is_right, paired, wilson
from memvp_export.calibration.damage import damage
from memvp_export.exporter.data import Answer, Request


def _right(expected: object, text: str, choice: int | None = None) -> bool:
    return is_right(Request("1", "?", answer=expected), Answer("1", text, (), choice))  # type: ignore[arg-type]


def test_what_is_right() -> None:
    assert _right("Red", " red ") and not _right("red", "reddish")
    assert _right(("two", "2"), "2") and not _right(("two", "2"), "3")
    assert _right(1, "B", choice=1) and not _right(1, "B", choice=0)
    assert not _right(None, "red")


def test_wilson_interval() -> None:
    # Newcombe 1998, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_only_questions_that_differ_count() -> None:
    first, second = [True] * 90 + [False] * 10, [True] * 88 + [False] * 12
    difference, half = paired(first, second)
    assert difference == pytest.approx(-0.02)
    assert half == pytest.approx(1.96 * np.sqrt((0.02 - 0.02**2) / 100), rel=1e-4)
    assert paired(first, first) == (0.0, 0.0)


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
