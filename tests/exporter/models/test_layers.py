"""Norms, attention and masks: equal to torch's own, and sound in half precision."""

import math

import pytest
import torch
import torch.nn.functional as F
from memvp_export.exporter.models.layers import (
    attention,
    causal_bias,
    layer_norm,
    merge_heads,
    rms_norm,
    rotary,
    select_positions,
    split_heads,
)
from torch import Tensor

HALVES = [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_norms_are_torchs() -> None:
    x, weight, bias = 3 * normal(2, 5, 16) + 1, normal(16, seed=1), normal(16, seed=2)
    torch.testing.assert_close(layer_norm(x, weight, bias, 1e-2), F.layer_norm(x, (16,), weight, bias, 1e-2))
    torch.testing.assert_close(rms_norm(x, weight, 1e-2), F.rms_norm(x, (16,), weight, 1e-2))


@pytest.mark.parametrize(("dtype", "tolerance"), HALVES)
def test_norms_survive_squares_beyond_half_range(dtype: torch.dtype, tolerance: float) -> None:
    x = (2000 * normal(2, 5, 64)).to(dtype)
    weight, bias = 1 + 0.1 * normal(64, seed=1), normal(64, seed=2)
    for actual, expected in (
        (layer_norm(x, weight, bias, 1e-5), F.layer_norm(x.double(), (64,), weight.double(), bias.double(), 1e-5)),
        (rms_norm(x, weight.to(dtype), 1e-6), F.rms_norm(x.double(), (64,), weight.double(), 1e-6)),
    ):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), expected, atol=4 * tolerance, rtol=tolerance)


def test_attention_is_torchs() -> None:
    query, key, value = normal(2, 3, 4, 8), normal(2, 3, 7, 8, seed=1), normal(2, 3, 7, 8, seed=2)
    bias = normal(2, 1, 4, 7, seed=3)
    expected = F.scaled_dot_product_attention(query, key, value, bias)
    torch.testing.assert_close(attention(query, key, value, bias), expected)
    torch.testing.assert_close(attention(query, key, value, None), F.scaled_dot_product_attention(query, key, value))


def test_a_column_is_visible_to_later_rows_where_the_mask_allows() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1]])
    visible = causal_bias(mask, 3)[:, 0] == 0
    assert visible.tolist() == [
        [[True, True, True, False, False], [True, True, True, True, False], [True] * 5],
        [[False, True, False, False, False], [False, True, False, True, False], [False, True, False, True, True]],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_query_that_sees_nothing_stays_finite(dtype: torch.dtype) -> None:
    query = torch.full((1, 1, 2, 4), -50.0, dtype=dtype)
    bias = causal_bias(torch.zeros(1, 2, dtype=torch.int64), 2)
    assert torch.isfinite(attention(query, -query, query, bias)).all()


@pytest.mark.parametrize(("dtype", "tolerance"), HALVES)
def test_masks_hold_in_half(dtype: torch.dtype, tolerance: float) -> None:
    query, key, value = (normal(1, 2, 6, 16, seed=seed).to(dtype) for seed in range(3))
    mask = torch.tensor([[0, 1, 1, 0, 1, 1]])
    bias = causal_bias(mask, 6)
    changed = value.clone()
    changed[:, :, [0, 3]] = 1000
    kept = mask[0] == 1
    assert torch.equal(attention(query, key, value, bias)[:, :, kept], attention(query, key, changed, bias)[:, :, kept])
    shown = torch.where(bias == 0, 0.0, -math.inf).double()
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), shown)[:, :, kept]
    torch.testing.assert_close(
        attention(query, key, value, bias)[:, :, kept].double(), expected, atol=tolerance, rtol=4 * tolerance
    )


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    def turned(x: Tensor, position: int) -> Tensor:
        angles = torch.tensor([[[[position]]]]) * 100.0 ** -torch.linspace(0, 1, 4)
        return rotary(x, angles.cos(), angles.sin())

    query, key = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1)
    torch.testing.assert_close(turned(query, 9).norm(), query.norm())
    scores = [float((turned(query, a) * turned(key, b)).sum()) for a, b in ((3, 1), (12, 10), (3, 2))]
    assert math.isclose(scores[0], scores[1], rel_tol=1e-5) and not math.isclose(scores[0], scores[2], rel_tol=1e-2)


def test_heads_split_and_merge() -> None:
    x = normal(2, 5, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 4) and torch.equal(heads[1, 2, 4], x[1, 4, 8:])
    assert torch.equal(merge_heads(heads), x)


def test_selected_positions_and_their_gradient() -> None:
    hidden = normal(2, 5, 3).double().requires_grad_()
    positions = torch.tensor([[4, 0, 0], [1, 3, 2]])
    selected = select_positions(hidden, positions)
    assert torch.equal(selected, torch.stack([hidden[0, [4, 0, 0]], hidden[1, [1, 3, 2]]]))
    assert torch.autograd.gradcheck(select_positions, (hidden, positions))
