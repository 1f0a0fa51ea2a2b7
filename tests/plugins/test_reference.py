"""The NumPy references of the operators against their formulas, written as loops over tokens and memory rows."""

import math
import subprocess
import sys

import numpy as np
import pytest
from memvp_export.plugins import reference

SCALARS = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "relu": lambda x: x if x > 0 else 0.0,
    "gelu": lambda x: x * math.erfc(-x / math.sqrt(2)) / 2,
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
@pytest.mark.parametrize(("rows", "batch"), [(2, 1), (2, 3), (4, 3)])
def test_every_token_adds_the_values_of_the_rows_it_matches(activation: str, rows: int, batch: int) -> None:
    hidden, ffn, visual = normal(0, 3, 2, 5), normal(1, 3, 2, 5), normal(2, batch, rows, 5)
    keys, values = normal(3, 4, 5), normal(4, 4, 5)
    expected = ffn.copy()
    for b, t, j in np.ndindex(3, 2, 4):
        row = visual[b % batch, j] if j < rows else np.zeros(5)
        expected[b, t] += 0.3 * SCALARS[activation](float(hidden[b, t] @ (row + keys[j]))) * (row + values[j])
    actual = reference.visual_memory_ffn(hidden, ffn, visual, keys, values, 0.3, activation)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_the_prompt_weighs_its_values_with_the_largest_activation_of_the_token() -> None:
    hidden, attention, keys, values = normal(0, 2, 3, 5), normal(1, 2, 3, 5), normal(2, 4, 5), normal(3, 4, 5)
    expected = attention.copy()
    for b, n in np.ndindex(2, 3):
        active = [max(float(hidden[b, n] @ key), 0.0) for key in keys]
        expected[b, n] += max(active) * sum(a * value for a, value in zip(active, values, strict=True))
    actual = reference.approximated_prompt(hidden, attention, keys, values)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_a_token_that_no_key_fits_gets_nothing_from_the_prompt() -> None:
    hidden, attention = -np.ones((1, 1, 3)), normal(0, 1, 1, 3)
    assert (reference.approximated_prompt(hidden, attention, np.ones((2, 3)), np.ones((2, 3))) == attention).all()


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_extreme_scores_stay_finite_and_zero_gives_zero(activation: str) -> None:
    x = np.array([-1e4, 0.0, 1e4])
    np.testing.assert_allclose(reference.ACTIVATIONS[activation](x), [0, 0, 1e4], atol=1e-300)


def test_half_inputs_are_computed_in_float64() -> None:
    big = np.full((1, 1, 4), 200, np.float16)
    out = reference.visual_memory_ffn(big, big, big, big[0], big[0], 1.0, "relu")
    assert out.dtype == np.float64 and out[0, 0, 0] == 200 + 4 * 200 * 400 * 400


def test_more_visual_rows_than_the_tables_hold_are_refused() -> None:
    hidden = normal(0, 1, 1, 3)
    with pytest.raises(ValueError, match="5 rows, the position tables only 4"):
        reference.visual_memory_ffn(hidden, hidden, normal(1, 1, 5, 3), normal(2, 4, 3), normal(3, 4, 3), 1.0, "relu")


def test_the_references_need_no_torch() -> None:
    code = "import sys, memvp_export.plugins.reference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
