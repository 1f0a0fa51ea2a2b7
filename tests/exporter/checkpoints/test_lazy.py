"""Tensors that stay in their file."""

from pathlib import Path

import pytest
import torch
from memvp_export.exporter.checkpoints.lazy import LazyTensor, concatenated
from memvp_export.exporter.checkpoints.torch_file import flatten_module, read_torch_file


@pytest.fixture
def table(tmp_path: Path) -> tuple[torch.Tensor, LazyTensor]:
    values = torch.randn(37, 5, generator=torch.Generator().manual_seed(0)).half()
    torch.save({"before": torch.zeros(3), "table": values}, tmp_path / "file.pth")
    return values, flatten_module(read_torch_file(tmp_path / "file.pth"))["table"]


def test_rows_are_read_apart(table: tuple[torch.Tensor, LazyTensor]) -> None:
    values, tensor = table
    assert tensor.load_rows is not None
    assert torch.equal(tensor.load_rows(11, 30), values[11:30])


def test_what_is_made_of_a_tensor_does_not_read_the_file_s_rows(table: tuple[torch.Tensor, LazyTensor]) -> None:
    values, tensor = table
    for made, expected in (
        (tensor.reshape(5, 37), values.reshape(5, 37)),
        (tensor.mapped((5, 37), lambda loaded: loaded.T), values.T),
        (concatenated([tensor, tensor], 1), torch.cat([values, values], 1)),
    ):
        assert made.load_rows is None
        assert torch.equal(made.load(), expected)


def test_strided_tensors_have_no_rows_of_their_own(tmp_path: Path) -> None:
    values = torch.arange(12.0).view(3, 4)
    torch.save({"transposed": values.T}, tmp_path / "file.pth")
    tensor = flatten_module(read_torch_file(tmp_path / "file.pth"))["transposed"]
    assert tensor.load_rows is None and torch.equal(tensor.load(), values.T)
