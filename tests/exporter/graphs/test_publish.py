"""A graph becomes two files of the bundle, recorded with their digests once they are whole."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from memvp_export.exporter.bundle import BundleWriter, sha256_file
from memvp_export.exporter.checkpoints.lazy import LazyTensor, from_array
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs.publish import write_graph
from memvp_export.exporter.progress import Progress
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.arange(6, dtype=np.float32)
TENSORS: dict[str, LazyTensor] = {"weight": from_array(WEIGHT, "checkpoint.pth: weight")}


def sum_with_weight() -> ir.Model:
    """y = x + weight, the weight still open."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [6]) for name in "xy")
    filler = numpy_helper.from_array(np.zeros(6, np.float32), "weight")
    graph = helper.make_graph([helper.make_node("Add", ["x", "weight"], ["y"])], "sum", [x], [y], [filler])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    model.graph.initializers["weight"].const_value = None
    return model


def test_both_files_are_recorded_with_their_digests(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path)
    progress = Progress()
    path = write_graph(sum_with_weight(), TENSORS, writer, "graphs/sum.onnx", progress)
    assert path == tmp_path / "graphs" / "sum.onnx"
    assert {name: entry["sha256"] for name, entry in writer.files.items()} == {
        name: sha256_file(tmp_path / name) for name in ("graphs/sum.onnx", "graphs/sum.onnx.data")
    }
    assert [stage.name for stage in progress.stages] == ["write sum", "check sum"]
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(path).graph.initializer[0]), WEIGHT)


def test_a_damaged_weight_leaves_no_record(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path)
    damaged = {"weight": from_array(np.full(6, np.nan, np.float32), "checkpoint.pth: weight")}
    with pytest.raises(InputError, match=r"checkpoint\.pth: weight holds NaN"):
        write_graph(sum_with_weight(), damaged, writer, "graphs/sum.onnx", Progress())
    assert writer.files == {}
