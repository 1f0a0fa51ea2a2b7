"""Streaming weights into a graph's data file: values, layout, digest, refusals."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from memvp_export.exporter.checkpoints.lazy import LazyTensor
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.graphs import weights
from memvp_export.exporter.graphs.passes import TRANSPOSED
from memvp_export.exporter.graphs.weights import ALIGNMENT, WrittenFile, data_size, write_weights
from onnx import numpy_helper
from torch import Tensor

TYPES = {torch.float32: ir.DataType.FLOAT, torch.float16: ir.DataType.FLOAT16, torch.bfloat16: ir.DataType.BFLOAT16}
LOADS: Counter[str] = Counter()


def lazy(name: str, tensor: Tensor) -> LazyTensor:
    def load() -> Tensor:
        LOADS[name] += 1
        return tensor.clone()

    return LazyTensor(tuple(tensor.shape), tensor.dtype, f"checkpoint.pth: {name}", load)


def graph(tensors: dict[str, Tensor], dtype: torch.dtype, transposed: tuple[str, ...] = ()) -> ir.Model:
    """A graph whose only content is open weights."""
    values = []
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1] if name in transposed else tensor.shape
        values.append(ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(TYPES[dtype])))
        if name in transposed:
            values[-1].metadata_props[TRANSPOSED] = "1"
    content = ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 20}, name="weights")
    return ir.Model(content, ir_version=10)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def written(
    folder: Path, tensors: dict[str, Tensor], dtype: torch.dtype, transposed: tuple[str, ...] = ()
) -> tuple[WrittenFile, dict[str, np.ndarray], onnx.ModelProto]:
    """What the writer reports, the arrays that onnx then reads, and the model without them."""
    model = graph(tensors, dtype, transposed)
    report = write_weights(model, {n: lazy(n, t) for n, t in tensors.items()}, folder / "w.onnx.data")
    assert report.size == data_size(graph(tensors, dtype, transposed))
    ir.save(model, folder / "w.onnx")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(folder / "w.onnx").graph.initializer}
    return report, arrays, onnx.load(folder / "w.onnx", load_external_data=False)


TENSORS = {"vector": normal(7), "matrix": normal(33, 20), "cube": normal(2, 3, 5, 4), "empty": normal(0, 3)}


@pytest.mark.parametrize("source", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("target", [torch.float16, torch.float32, torch.bfloat16])
def test_every_tensor_arrives_rounded_once(tmp_path: Path, source: torch.dtype, target: torch.dtype) -> None:
    tensors = {name: tensor.to(source) for name, tensor in TENSORS.items()}
    _, arrays, _ = written(tmp_path, tensors, target)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(arrays[name].astype(np.float32), tensor.to(target).float().numpy())


def test_marked_weights_are_stored_transposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK_BYTES", 256)
    _, arrays, model = written(tmp_path, TENSORS, torch.float32, transposed=("matrix",))
    np.testing.assert_array_equal(arrays["matrix"], TENSORS["matrix"].T)
    np.testing.assert_array_equal(arrays["cube"], TENSORS["cube"])
    marks = {tensor.name: [entry.key for entry in tensor.metadata_props] for tensor in model.graph.initializer}
    assert marks == {"vector": [], "matrix": [TRANSPOSED], "cube": [], "empty": []}


def test_the_digest_is_that_of_the_file_and_tensors_start_at_pages(tmp_path: Path) -> None:
    report, _, model = written(tmp_path, TENSORS, torch.float16)
    content = (tmp_path / "w.onnx.data").read_bytes()
    assert (report.size, report.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer]
    assert all(int(entry["offset"]) % ALIGNMENT == 0 for entry in entries)
    assert [int(entry["length"]) for entry in entries] == [2 * tensor.numel() for tensor in TENSORS.values()]
    assert {entry["location"] for entry in entries} == {"w.onnx.data"}


def test_each_tensor_is_read_once_and_progress_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK_BYTES", 256)
    LOADS.clear()
    steps: list[int] = []
    model = graph(TENSORS, torch.float16)
    report = write_weights(model, {n: lazy(n, t) for n, t in TENSORS.items()}, tmp_path / "data", steps.append)
    assert dict(LOADS) == dict.fromkeys(TENSORS, 1)
    assert sum(steps) == report.size and max(steps) <= ALIGNMENT


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_damaged_weight_is_named(tmp_path: Path, value: float) -> None:
    damaged = normal(33, 20)
    damaged[17, 3] = value
    with pytest.raises(InputError, match=r"checkpoint\.pth: matrix holds NaN or infinite values"):
        written(tmp_path, {"vector": normal(7), "matrix": damaged}, torch.float32)


def test_a_weight_beyond_float16_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK_BYTES", 256)
    large = normal(33, 20)
    large[32, 19] = 1e6
    with pytest.raises(InputError, match=r"pth: matrix does not fit torch\.float16; export with --precision bf16 or"):
        written(tmp_path, {"matrix": large}, torch.float16)
    _, arrays, _ = written(tmp_path, {"matrix": large}, torch.bfloat16)
    assert float(arrays["matrix"][32, 19]) == pytest.approx(1e6, rel=1e-2)


def test_a_full_disk_is_said_to_be_full() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(EnvironmentLack, match="the disk is full: /dev needs 20,480 bytes"):
        write_weights(graph({"a": normal(70, 70)}, torch.float32), {"a": lazy("a", normal(70, 70))}, full)


def test_a_reader_that_fails_leaves_no_thread_behind(tmp_path: Path) -> None:
    def load() -> Tensor:
        raise InputError("checkpoint.pth is cut short")

    broken = LazyTensor((7,), torch.float32, "checkpoint.pth: b", load)
    with pytest.raises(InputError, match="cut short"):
        model = graph({"a": normal(7), "b": normal(7)}, torch.float32)
        write_weights(model, {"a": lazy("a", normal(7)), "b": broken}, tmp_path / "data")
