"""Which products are quantized."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from memvp_export.calibration.layers import check_patterns, choose, find_layers
from memvp_export.calibration.modes import MODES
from memvp_export.calibration.operands import find_operands
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.inspection.values import load_graph

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
