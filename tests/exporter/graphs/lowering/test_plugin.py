"""A graph that is lowered to the plugin: the operator without its body."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.graphs.lowering import Lowered, lower
from memvp_export.exporter.graphs.operators import add_functions
from memvp_export.plugins import reference
from onnx import TensorProto, helper, numpy_helper

from .decoder_inputs import decoder_inputs

Arrays = dict[str, np.ndarray]
LoweredOf = Callable[..., Lowered]
Run = Callable[[Path, Arrays], Arrays]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_operator_stays_with_its_attributes_and_no_body(lowered_of: LoweredOf, precision: str) -> None:
    lowered = lowered_of("decoder", precision, plugin=True)
    assert (lowered.lowering, lowered.memory_sites) == ("plugin", 3)
    model = onnx.load(lowered.path, load_external_data=False)
    assert not model.functions
    assert {entry.domain: entry.version for entry in model.opset_import}["memvp"] == 1
    nodes = [node for node in model.graph.node if node.domain]
    assert [node.op_type for node in nodes] == ["VisualMemoryFFN"] * 3
    for i, node in enumerate(nodes):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        assert attributes == {"scale": pytest.approx(0.1), "activation": b"silu"}
        assert node.input[1] == f"model.layers.{i}.mlp.down_proj/MatMul"
        assert list(node.input)[2:] == ["visual_memory", "adapter_emb1", "adapter_emb2"]


def test_with_its_body_back_it_answers_as_published(
    lowered_of: LoweredOf, bundle_of: Callable[[str], Path], run: Run, tmp_path: Path
) -> None:
    published = bundle_of("fp32") / "graphs" / "decoder.onnx"
    lowered = lowered_of("decoder", "fp32", plugin=True, cache="concat")
    model = onnx.load(lowered.path)
    model.functions.extend(onnx.load(published, load_external_data=False).functions)
    onnx.save(model, tmp_path / "with_body.onnx")
    inputs = decoder_inputs("fp32", 2, 3, 4)
    actual, expected = run(tmp_path / "with_body.onnx", inputs), run(published, inputs)
    for name in expected:
        assert np.array_equal(actual[name], expected[name]), name


@pytest.mark.parametrize("plugin", [False, True])
def test_an_approximated_prompt_is_always_written_out(run: Run, tmp_path: Path, plugin: bool) -> None:
    """The plugin does not have it: its products are static, and native."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((2, 5, 24)).astype(np.float32) for name in ("hidden", "attention")}
    tables = {name: rng.standard_normal((9, 24)).astype(np.float32) for name in ("keys", "values")}
    lowered = lower(prompt_bundle(tmp_path / "bundle", tables), "model", "fp32", tmp_path, plugin=plugin)
    model = onnx.load(lowered.path)
    assert (lowered.lowering, lowered.memory_sites) == ("native", 1)
    assert not model.functions and {node.domain for node in model.graph.node} == {""}
    expected = reference.approximated_prompt(*arrays.values(), *tables.values())
    actual = run(lowered.path, arrays)["output"]
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()
    arrays["hidden"][1] *= 2
    assert not np.allclose(run(lowered.path, arrays)["output"][1], actual[1], rtol=0.1)


def prompt_bundle(root: Path, tables: Arrays) -> Bundle:
    """A bundle of one graph of one ApproximatedPrompt."""
    dims = ["batch", "tokens", 24]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in ("hidden", "attention", "output")]
    node = helper.make_node("ApproximatedPrompt", ["hidden", "attention", *tables], ["output"], "site", domain="memvp")
    stored = [numpy_helper.from_array(array, name) for name, array in tables.items()]
    graph = helper.make_graph([node], "model", ports[:2], ports[2:], stored)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("memvp", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))
    add_functions(model, 20)
    root.mkdir()
    (root / "model.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    component = {"inputs": [], "outputs": [], "ranges": {"batch": [1, 8], "tokens": [1, 64]}, "cache": None}
    component["graphs"] = {"fp32": {"file": "model.onnx", "opset": 20}}
    return Bundle(root, {"precision": "fp32", "components": {"model": component}, "files": {"model.onnx": {}}})
