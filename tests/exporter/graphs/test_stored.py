"""Weights read back from a published graph are the source's, bit for bit."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from memvp_export.exporter.checkpoints.lazy import read_values
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs.stored import stored_weights
from memvp_export.exporter.models.component import Component, Weight
from memvp_export.exporter.models.family import Model, load

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def model(odd_source: Path) -> Model:
    return load(read_source(odd_source))


def part(model: Model, name: str) -> Component:
    return next(component for component in model.components if component.name == name)


@pytest.mark.parametrize("name", ["vision", "decoder"])
@pytest.mark.parametrize("precision", DTYPES)
def test_they_are_the_sources(bundle_of: Callable[[str], Path], model: Model, precision: str, name: str) -> None:
    component = part(model, name)
    stored = stored_weights(bundle_of(precision) / "graphs" / f"{name}.onnx", component)
    assert stored.keys() == component.weights.keys()
    for key, tensor in stored.items():
        dtype = torch.float32 if component.weights[key].float32 else DTYPES[precision]
        loaded, source = tensor.load(), model.weights[key].load().to(dtype)
        assert (tensor.shape, tensor.dtype) == (tuple(source.shape), dtype)
        assert torch.equal(loaded, source), key


def test_a_graph_of_another_model_is_refused(bundle_of: Callable[[str], Path], model: Model) -> None:
    graph = bundle_of("fp32") / "graphs" / "vision.onnx"
    vision = part(model, "vision")
    with pytest.raises(InputError, match="no weight 'extra'"):
        stored_weights(graph, replace(vision, weights={**vision.weights, "extra": Weight((1,))}))
    with pytest.raises(InputError, match=r"adapter_proj.fc1.bias has the shape \(24,\), the model \(25,\)"):
        stored_weights(graph, replace(vision, weights={"adapter_proj.fc1.bias": Weight((25,))}))


def test_a_type_that_no_weight_has_is_refused(bundle_of: Callable[[str], Path], model: Model, tmp_path: Path) -> None:
    graph = onnx.load(bundle_of("fp32") / "graphs" / "vision.onnx", load_external_data=False)
    next(t for t in graph.graph.initializer if t.name == "adapter_proj.fc1.bias").data_type = onnx.TensorProto.DOUBLE
    (tmp_path / "vision.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(InputError, match=r"adapter_proj\.fc1\.bias is of the ONNX type 11"):
        stored_weights(tmp_path / "vision.onnx", part(model, "vision"))


def test_a_size_that_the_file_does_not_have_is_not_allocated(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(100))
    with pytest.raises(InputError, match=r"x is cut short .*4,503,599,627,370,500 bytes are needed"):
        read_values(tmp_path / "x", 4, 1 << 50, torch.float32)
    assert read_values(tmp_path / "x", 4, 24, torch.float32).shape == (24,)


def test_data_that_is_cut_short_is_noticed(bundle_of: Callable[[str], Path], model: Model, tmp_path: Path) -> None:
    for file in (bundle_of("fp32") / "graphs").glob("vision.onnx*"):
        shutil.copy(file, tmp_path)
    data = tmp_path / "vision.onnx.data"
    data.write_bytes(data.read_bytes()[:-8192])
    weights = stored_weights(tmp_path / "vision.onnx", part(model, "vision"))
    with pytest.raises(InputError, match=r"vision\.onnx\.data (is cut short|became shorter)"):
        for tensor in weights.values():
            tensor.load()
