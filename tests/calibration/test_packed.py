"""Products that make query, key and value at once are quantized as one for each, with the same numbers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from memvp_export.calibration import insert
from memvp_export.calibration.modes import MODES
from memvp_export.calibration.packed import find_packed
from memvp_export.calibration.publish import write_quantized
from memvp_export.calibration.scales import LayerScale, Scales
from memvp_export.exporter.inspection.values import load_graph
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.progress import Progress
from onnx import TensorProto, helper, numpy_helper

WIDTH, PARTS = 32, 3


def _graph(path: Path, after: str = "Reshape", axis: int = 2) -> Path:
    random = np.random.default_rng(0)
    stored = {
        "w": random.standard_normal((WIDTH, PARTS * WIDTH)).astype(np.float32),
        "b": random.standard_normal(PARTS * WIDTH).astype(np.float32),
        "shape": np.array([0, 0, 4, WIDTH // 4]),
    }
    outputs = [f"y{i}" for i in range(PARTS)]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["qkv/MatMul"], "qkv/MatMul"),
        helper.make_node("Add", ["qkv/MatMul", "b"], ["qkv/Add"], "qkv/Add"),
        helper.make_node("Split", ["qkv/Add"], [f"p{i}" for i in range(PARTS)], "qkv/Split", axis=axis, num_outputs=3),
        *(
            helper.make_node(after, [f"p{i}", "shape"] if after == "Reshape" else [f"p{i}"], [outputs[i]], f"after{i}")
            for i in range(PARTS)
        ),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", WIDTH])
    known = helper.make_tensor_value_info("qkv/Add", TensorProto.FLOAT, ["batch", "sequence", PARTS * WIDTH])
    graph = helper.make_graph(
        nodes, "g", [given], ports, [numpy_helper.from_array(v, n) for n, v in stored.items()], value_info=[known]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=1000)
    return path


def _outputs(path: Path) -> list[np.ndarray]:
    x = np.random.default_rng(1).standard_normal((2, 5, WIDTH)).astype(np.float32)
    return [*OnnxSession({"model": path}, "fp32", optimize=False).run("model", {"x": x}).values()]


@pytest.mark.parametrize("mode", MODES)
def test_the_parts_have_the_numbers_of_the_whole(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _graph(tmp_path / "g.onnx")
    scale = LayerScale(3.0 if MODES[mode].activations else None, "x")
    factors = {"model": {"x": [0.5 + 0.1 * i for i in range(WIDTH)]}}
    scales = Scales(mode, "max", {}, {}, {"model": {"qkv/MatMul": scale}}, factors=factors)
    found = {}
    for name in ("parts", "whole"):
        (tmp_path / name).mkdir()
        if name == "whole":
            monkeypatch.setattr(insert, "find_packed", lambda graph: {})
        found[name] = write_quantized(source, "model", scales, tmp_path / name / "g.onnx", Progress()).path
    kinds = [node.op_type for node in load_graph(found["parts"]).graph.node]
    assert (kinds.count("MatMul"), kinds.count("Add"), kinds.count("Split")) == (PARTS, PARTS, 0)
    # One pair on what they read.
    assert kinds.count("QuantizeLinear") == bool(MODES[mode].activations)
    for part, whole, exact in zip(*map(_outputs, (found["parts"], found["whole"], source)), strict=True):
        assert np.allclose(part, whole, rtol=1e-5, atol=1e-5)
        assert 1e-4 < np.linalg.norm(part - exact) / np.linalg.norm(exact) < 0.5


@pytest.mark.parametrize(("after", "axis"), [("Tanh", 2), ("Reshape", 0)])
def test_what_is_split_otherwise_stays_one_product(after: str, axis: int, tmp_path: Path) -> None:
    assert find_packed(load_graph(_graph(tmp_path / "whole.onnx")).graph)
    assert not find_packed(load_graph(_graph(tmp_path / "g.onnx", after, axis)).graph)
