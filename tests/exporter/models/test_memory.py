"""The memory operators in torch against the NumPy references, as operators of torch, and their gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from memvp_export.exporter.models.memory import ACTIVATIONS, approximated_prompt, visual_memory_ffn
from memvp_export.plugins import reference
from torch import Tensor

TOLERANCES = [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)]
BATCH, TOKENS, WIDTH, TABLE_ROWS = 3, 5, 24, 9


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def memory_inputs(rows: int, visual_batch: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    hidden, ffn = (normal(seed, BATCH, TOKENS, WIDTH, dtype=dtype) for seed in (0, 1))
    visual = normal(2, visual_batch, rows, WIDTH, dtype=dtype)
    return [hidden, ffn, visual, *(normal(seed, TABLE_ROWS, WIDTH, dtype=dtype) for seed in (3, 4))]


def prompt_inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    hidden, attention = (normal(seed, BATCH, TOKENS, WIDTH, dtype=dtype) for seed in (0, 1))
    return [hidden, attention, *(normal(seed, TABLE_ROWS, WIDTH, dtype=dtype) for seed in (2, 3))]


def distance(actual: Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual.double().numpy() - expected) / np.linalg.norm(expected))


def numpy_of(formula: Callable[..., np.ndarray], inputs: list[Tensor], *constants: Any) -> np.ndarray:
    return formula(*(tensor.double().numpy() for tensor in inputs), *constants)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("rows", [4, TABLE_ROWS])
@pytest.mark.parametrize("visual_batch", [1, BATCH])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_factored_lookup_is_the_papers(
    activation: str, visual_batch: int, rows: int, dtype: torch.dtype, tolerance: float
) -> None:
    inputs = memory_inputs(rows, visual_batch, dtype)
    expected = numpy_of(reference.visual_memory_ffn, inputs, 0.3, activation)
    actual = visual_memory_ffn(*inputs, 0.3, activation)
    assert actual.dtype == dtype
    assert distance(actual, expected) < tolerance
    assert distance(inputs[1], expected) > 0.1, "the memory must weigh something, or nothing is compared"


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_the_prompt_is_the_papers(dtype: torch.dtype, tolerance: float) -> None:
    inputs = prompt_inputs(dtype)
    actual = approximated_prompt(*inputs)
    assert actual.dtype == dtype
    assert distance(actual, numpy_of(reference.approximated_prompt, inputs)) < tolerance


def test_every_part_of_the_memory_moves_the_output() -> None:
    inputs = memory_inputs(4, BATCH)
    before = visual_memory_ffn(*inputs, 0.3, "silu")
    for i in range(5):
        changed = [tensor + 0.5 if i == j else tensor for j, tensor in enumerate(inputs)]
        assert not torch.allclose(visual_memory_ffn(*changed, 0.3, "silu"), before, atol=1e-2)
    assert not torch.allclose(visual_memory_ffn(*inputs, 0.3, "gelu"), before, atol=1e-2)
    assert not torch.allclose(visual_memory_ffn(*inputs, 0.6, "silu"), before, atol=1e-2)


def test_the_image_of_one_sample_stays_with_that_sample() -> None:
    inputs = memory_inputs(4, BATCH)
    before = visual_memory_ffn(*inputs, 0.3, "silu")
    inputs[2][1] += 1
    changed = (visual_memory_ffn(*inputs, 0.3, "silu") - before).abs().amax((1, 2))
    assert changed[0] == changed[2] == 0 and changed[1] > 0.1


def test_more_visual_rows_than_the_tables_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="10 rows, the position tables only 9"):
        visual_memory_ffn(*memory_inputs(TABLE_ROWS + 1, BATCH), 0.3, "silu")


def test_a_prompt_with_large_half_activations_does_not_overflow() -> None:
    width = 64
    hidden = torch.full((1, 2, width), 2.0, dtype=torch.float16)
    keys = torch.full((3, width), 3.0, dtype=torch.float16)
    values = normal(0, 3, width, dtype=torch.float16) / 100
    inputs = [hidden, hidden, keys, values]
    expected = numpy_of(reference.approximated_prompt, inputs)
    assert (2.0 * 3.0 * width) ** 2 > 65504 > np.abs(expected).max()
    assert distance(approximated_prompt(*inputs), expected) < 2e-3


def test_torch_finds_the_operators_well_defined() -> None:
    memory, prompt = ([tensor.requires_grad_() for tensor in made] for made in (memory_inputs(4, 1), prompt_inputs()))
    torch.library.opcheck(visual_memory_ffn, (*memory, 0.3, "silu"))
    torch.library.opcheck(approximated_prompt, tuple(prompt))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("visual_batch", [1, 2])
def test_the_lookup_has_its_gradients(activation: str, visual_batch: int) -> None:
    shapes = ((2, 2, 3), (2, 2, 3), (visual_batch, 2, 3), (4, 3), (4, 3))
    inputs = [normal(seed, *shape, dtype=torch.float64).requires_grad_() for seed, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(lambda *tensors: visual_memory_ffn(*tensors, 0.3, activation), inputs)


def test_the_prompt_has_its_gradients() -> None:
    shapes = ((2, 2, 3), (2, 2, 3), (4, 3), (4, 3))
    inputs = [normal(seed, *shape, dtype=torch.float64).requires_grad_() for seed, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(approximated_prompt, inputs)


def test_frozen_inputs_get_no_gradient() -> None:
    inputs = memory_inputs(4, BATCH)
    trained = inputs[4].requires_grad_()
    visual_memory_ffn(*inputs, 0.3, "silu").sum().backward()
    assert trained.grad is not None and trained.grad.abs().sum() > 0
    assert all(tensor.grad is None for tensor in inputs[:4])
