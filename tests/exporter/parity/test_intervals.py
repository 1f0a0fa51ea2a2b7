"""How sure shares are."""

import numpy as np
import pytest
from memvp_export.exporter.parity.intervals import paired, wilson


def test_wilson_interval() -> None:
    # Newcombe 1998, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    for total in range(1, 400):
        assert 0 <= wilson(0, total)[0] < 1e-9 and 1 - 1e-9 < wilson(total, total)[1] <= 1


def test_only_questions_that_differ_count() -> None:
    first, second = [True] * 90 + [False] * 10, [True] * 86 + [False] * 13 + [True]
    difference, half = paired(first, second)
    assert difference == pytest.approx(-0.03)
    # Half a question in each cell: 4.5 lost and 1.5 won of 102.
    lost, won = 4.5 / 102, 1.5 / 102
    assert half == pytest.approx(1.96 * np.sqrt((lost + won - (lost - won) ** 2) / 102), rel=1e-4)
    assert paired(second, first) == pytest.approx((0.03, half))


def test_agreement_on_a_few_questions_is_no_certainty() -> None:
    few, many = (paired([True] * count, [True] * count) for count in (10, 1000))
    assert few[0] == many[0] == 0 and 0.1 < few[1] < 0.2 and 0 < many[1] < 0.003
