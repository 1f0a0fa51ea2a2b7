"""Weights that are read when a forward pass asks: what they give is what a plain tensor gives."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from memvp_export.exporter.checkpoints.lazy import LazyTensor
from memvp_export.exporter.models import streamed_weights
from memvp_export.exporter.models.streamed_weights import RowsOnDemand, StreamedWeights


def matrix(rows: int, columns: int, read: list[tuple[int, int]]) -> tuple[torch.Tensor, LazyTensor]:
    """A half matrix, and the same as a tensor of a file that notes which rows are read."""
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).half()

    def load_rows(start: int, stop: int) -> torch.Tensor:
        read.append((start, stop))
        return values[start:stop].clone()

    def load() -> torch.Tensor:
        raise AssertionError("the whole matrix was read")

    return values, LazyTensor((rows, columns), torch.float16, "file: a", load, load_rows)


def test_half_weights_are_computed_with_in_float32() -> None:
    half = LazyTensor((2,), torch.float16, "file: a", lambda: torch.ones(2, dtype=torch.float16))
    assert StreamedWeights({"a": half})["a"].dtype == torch.float32


@pytest.mark.parametrize("block", [1, 4 * 24 * 10, 1 << 20])
def test_a_large_matrix_multiplies_block_by_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_weights, "BLOCK_BYTES", block)
    read: list[tuple[int, int]] = []
    values, tensor = matrix(37, 24, read)
    x = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(1))
    bias = torch.arange(37.0)
    weight = RowsOnDemand(tensor)
    torch.testing.assert_close(F.linear(x, weight), F.linear(x, values.float()))  # type: ignore[arg-type]
    torch.testing.assert_close(F.linear(x, weight, bias), F.linear(x, values.float(), bias))  # type: ignore[arg-type]
    assert max(stop - start for start, stop in read) == min(37, max(1, block // 96))


def test_an_embedding_reads_the_rows_it_needs_and_no_others() -> None:
    read: list[tuple[int, int]] = []
    values, tensor = matrix(50, 8, read)
    ids = torch.tensor([[3, 3, 49], [0, 3, 7]])
    assert torch.equal(F.embedding(ids, RowsOnDemand(tensor)), values.float()[ids])  # type: ignore[arg-type]
    assert sorted(read) == [(0, 1), (3, 4), (7, 8), (49, 50)]


def test_other_uses_are_refused_and_not_answered_wrongly() -> None:
    _, tensor = matrix(4, 4, [])
    with pytest.raises(TypeError):
        torch.add(torch.ones(4, 4), RowsOnDemand(tensor))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        F.linear(RowsOnDemand(tensor), torch.ones(4, 4))  # type: ignore[arg-type]


def test_only_large_matrices_of_large_models_stay_in_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    values, tensor = matrix(37, 24, [])
    small = replace(tensor, load=values.clone)
    monkeypatch.setattr(streamed_weights, "BLOCK_BYTES", 100)
    assert isinstance(StreamedWeights({"a": tensor}, keep_bytes=0)["a"], RowsOnDemand)
    assert torch.equal(StreamedWeights({"a": small})["a"], values.float())
    assert torch.equal(StreamedWeights({"a": replace(small, load_rows=None)}, keep_bytes=0)["a"], values.float())
    monkeypatch.setattr(streamed_weights, "BLOCK_BYTES", 1 << 20)
    assert torch.equal(StreamedWeights({"a": small}, keep_bytes=0)["a"], values.float())
