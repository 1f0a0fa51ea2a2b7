"""A source and a bundle to damage."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir
import pytest
from memvp_export.exporter import export
from memvp_export.exporter.models.component import Component


@pytest.fixture
def source(odd_source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(odd_source, tmp_path / "source"))


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[[str], Path]) -> Path:
    return bundle_of("fp32")


@pytest.fixture
def no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that hold the weights and nothing else: what is wrong with a weight does not depend on the graph."""

    def trace(component: Component, precision: str, opset: int, keep_fp32: Sequence[str]) -> ir.Model:
        graph = ir.Graph([], [], nodes=[], name=component.name, opset_imports={"": opset})
        kinds = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
        for name, weight in component.weights.items():
            kind = ir.DataType.FLOAT if weight.float32 else kinds[precision]
            graph.initializers[name] = ir.Value(name=name, shape=ir.Shape(weight.shape), type=ir.TensorType(kind))
        return ir.Model(graph, ir_version=10)

    monkeypatch.setattr(export, "trace", trace)
