"""Which products are quantized."""

from collections.abc import Callable
from math import prod
from pathlib import Path

import onnx
import pytest
from memvp_export.calibration.layers import check_patterns, choose, find_layers
from memvp_export.calibration.modes import MODES
from memvp_export.calibration.operands import find_operands
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.inspection.values import load_graph
from onnx import helper

LAYER = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
FFN = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@pytest.fixture(scope="module")
def graphs(bundle_of: Callable[[str], Path]) -> dict[str, onnx.GraphProto]:
    opened = Bundle.open(bundle_of("fp32"))
    return {name: load_graph(opened.graph(name)).graph for name in ("vision", "decoder")}


def test_a_decoder_is_quantized_but_for_attention_memory_and_the_last_layer(graphs: dict[str, onnx.GraphProto]) -> None:
    choice = choose(graphs["decoder"], MODES["int8"])
    expected = [f"model.layers.{i}.{part}" for i in range(3) for part in (*LAYER, *FFN)]
    assert [layer.module for layer in choice.chosen] == expected
    assert list(choice.left_out) == ["lm_head/MatMul"] and "last" in choice.left_out["lm_head/MatMul"]


def test_what_is_too_small_is_left_out(graphs: dict[str, onnx.GraphProto]) -> None:
    choice = choose(graphs["vision"], MODES["int8"])
    small = [layer for layer in find_layers(graphs["vision"]) if min(layer.inputs, layer.outputs) < 16]
    assert small and all("smaller" in choice.left_out[layer.name] for layer in small)


def test_patterns_overrule_the_rules(graphs: dict[str, onnx.GraphProto]) -> None:
    choice = choose(graphs["decoder"], MODES["int8"], include=["lm_head"], exclude=["*.layers.0.*", "*.q_proj"])
    modules = [layer.module for layer in choice.chosen]
    assert "lm_head" in modules
    assert not [name for name in modules if "layers.0." in name or name.endswith("q_proj")]
    assert "model.layers.1.mlp.down_proj" in modules


def test_exclusion_overrules_inclusion(graphs: dict[str, onnx.GraphProto]) -> None:
    choice = choose(graphs["decoder"], MODES["int8"], include=["lm_head"], exclude=["lm_*"])
    assert choice.left_out["lm_head/MatMul"] == "excluded by name"


def test_a_pattern_that_names_nothing_is_refused(graphs: dict[str, onnx.GraphProto]) -> None:
    with pytest.raises(InputError, match=r"'lm_haed'.*q_proj"):
        check_patterns(find_layers(graphs["decoder"]), ["lm_haed"])


def test_norms_are_found_in_every_precision(
    graphs: dict[str, onnx.GraphProto], bundle_of: Callable[[str], Path]
) -> None:
    half = load_graph(Bundle.open(bundle_of("fp16")).graph("vision")).graph
    found = []
    for graph in (graphs["vision"], half):
        operands = find_operands(graph, choose(graph, MODES["int8"]).chosen)
        found.append({layer.name: bool(operand.norm) for operand in operands for layer in operand.layers})
    assert found[0] == found[1]
    assert {name for name, norm in found[0].items() if norm} >= {"visual.transformer.resblocks.0.attn/MatMul"}
    assert not found[0]["visual.transformer.resblocks.0.mlp.c_proj/MatMul"]


def test_products_of_one_tensor_belong_together(graphs: dict[str, onnx.GraphProto]) -> None:
    operands = find_operands(graphs["decoder"], choose(graphs["decoder"], MODES["int8"]).chosen)
    groups = [[layer.module.split(".")[-1] for layer in operand.layers] for operand in operands[:4]]
    assert groups == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


def _graph(
    nodes: list[onnx.NodeProto], widths: dict[str, list[int]], outputs: list[str], more: int = 0
) -> onnx.GraphProto:
    """Nodes over the inputs `x` [B,T,32] and `step` [1], int64, with stored matrices of these shapes."""
    stored = [helper.make_tensor(name, 1, dims, bytes(4 * prod(dims)), raw=True) for name, dims in widths.items()]
    given = [
        helper.make_tensor_value_info("x", 1, ["batch", "sequence", 32]),
        helper.make_tensor_value_info("step", onnx.TensorProto.INT64, [1]),
    ]
    stored += [helper.make_tensor("conv", 1, [more], bytes(4 * more), raw=True)] if more else []
    ports = [helper.make_tensor_value_info(name, 1, None) for name in outputs]
    return helper.make_graph(nodes, "g", given, ports, stored)


def _node(kind: str, name: str, *inputs: str) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [name], name)


def test_the_end_of_a_residual_stream_has_no_last_layer() -> None:
    """Its error is that of every layer; a product that makes the output is."""
    widths = {"first": [32, 32], "up": [32, 64], "down": [64, 32], "bias": [32], "head": [32, 32]}
    block = [
        _node("MatMul", "first/MatMul", "x", "first"),
        _node("MatMul", "up/MatMul", "first/MatMul", "up"),
        _node("Relu", "up/Relu", "up/MatMul"),
        _node("MatMul", "down/MatMul", "up/Relu", "down"),
        _node("Add", "down/Add", "down/MatMul", "bias"),
        _node("Add", "sum", "first/MatMul", "down/Add"),
    ]
    stream = choose(_graph(block, widths, ["sum"]), MODES["int8"])
    assert {layer.name for layer in stream.chosen} == {"up/MatMul", "down/MatMul"}
    headed = choose(
        _graph([*block, _node("MatMul", "head/MatMul", "sum", "head")], widths, ["head/MatMul"]), MODES["int8"]
    )
    assert {layer.name for layer in headed.chosen} == {"up/MatMul", "down/MatMul"}
    assert headed.left_out["head/MatMul"].startswith("last layer")
    alone = choose(_graph(block[:5], widths, ["down/Add"]), MODES["int8"])
    assert alone.left_out["down/MatMul"].startswith("last layer")


def test_what_follows_from_a_time_step_alone_is_left() -> None:
    widths = {"one": [32, 32], "two": [32, 32], "three": [32, 32], "four": [32, 32], "angles": [32]}
    nodes = [
        helper.make_node("Cast", ["step"], ["cast"], "cast", to=1),
        _node("Mul", "waves", "cast", "angles"),
        _node("MatMul", "one/MatMul", "waves", "one"),
        _node("MatMul", "two/MatMul", "one/MatMul", "two"),
        _node("MatMul", "three/MatMul", "x", "three"),
        _node("Add", "sum", "three/MatMul", "two/MatMul"),
        _node("MatMul", "four/MatMul", "sum", "four"),
        _node("Mul", "out", "four/MatMul", "four/MatMul"),
        _node("Add", "end", "out", "sum"),
    ]
    choice = choose(_graph(nodes, widths, ["end"]), MODES["int8"])
    assert [layer.name for layer in choice.chosen] == ["four/MatMul"]
    steps = {name for name, reason in choice.left_out.items() if "time steps alone" in reason}
    assert steps == {"one/MatMul", "two/MatMul"}


def test_a_component_with_hardly_any_products_is_left_as_it_is() -> None:
    widths = {"one": [32, 32], "two": [32, 32]}
    nodes = [
        _node("MatMul", "one/MatMul", "x", "one"),
        _node("MatMul", "two/MatMul", "one/MatMul", "two"),
        _node("Add", "sum", "one/MatMul", "two/MatMul"),
    ]
    assert [layer.name for layer in choose(_graph(nodes, widths, ["sum"], 10_000), MODES["int8"]).chosen] == [
        "two/MatMul"
    ]
    few = _graph(nodes, widths, ["sum"], 50_000)
    assert {*choose(few, MODES["int8"]).left_out.values()} == {
        "the component is hardly made of products: nothing is gained"
    }
    assert [layer.name for layer in choose(few, MODES["int8"], include=["two"]).chosen] == ["two/MatMul"]
