"""Formats against onnx's own statement of QuantizeLinear, and matrices in them."""

import numpy as np
import onnx
import pytest
from memvp_export.calibration.modes import FP8, INT8, MODES, Format, block_of, mode_named
from memvp_export.calibration.weight_scales import quantize_weight
from memvp_export.exporter.errors import InputError
from onnx import helper
from onnx.reference import ReferenceEvaluator

SINGLE = np.dtype(np.float32)
WEIGHT = np.random.default_rng(0).standard_normal((64, 10)).astype(np.float32)


@pytest.mark.parametrize("number", [INT8, FP8])
def test_values_are_those_of_quantize_linear(number: Format) -> None:
    values = np.concatenate([np.linspace(-3, 3, 501), [9.0, -9.0, 0.5 / 127]]).astype(np.float32)
    scale = np.float32(2.5 / number.top)
    zero = helper.make_tensor("zero", number.onnx_type, [], b"\0", raw=True)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "s", "y")]
    graph = helper.make_graph(nodes, "g", ports[:2], ports[2:], [zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    (expected,) = ReferenceEvaluator(model).run(None, {"x": values, "s": scale})
    assert np.allclose(number.fake(values, scale), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_a_weight_is_within_half_a_step(mode: str) -> None:
    found = quantize_weight(WEIGHT, MODES[mode], "max", SINGLE)
    gap = np.abs(found.values - WEIGHT)
    steps = np.repeat(found.scales, found.block, 0)
    allowed = steps / 2 if MODES[mode].weights is not FP8 else np.abs(WEIGHT) / 16 + steps
    assert (gap <= allowed * 1.001).all() and gap.max() > 0


def test_int8_has_a_scale_for_each_output() -> None:
    found = quantize_weight(WEIGHT, MODES["int8"], "max", SINGLE)
    assert np.allclose(found.scales, np.abs(WEIGHT).max(0, keepdims=True) / 127)


def test_int4_has_a_scale_for_each_block() -> None:
    found = quantize_weight(WEIGHT, MODES["int4-weights"], "max", SINGLE)
    assert found.block == 32
    assert np.allclose(found.scales, np.abs(WEIGHT.reshape(2, 32, 10)).max(1) / 7)


def test_the_search_lowers_the_error_and_heeds_large_inputs() -> None:
    mode = MODES["int4-weights"]
    importance = np.where(np.arange(64) % 2, 100.0, 0.01)

    def error(method: str, given: np.ndarray | None, by: np.ndarray) -> float:
        found = quantize_weight(WEIGHT, mode, method, SINGLE, given)
        return float((by[:, None] * np.square(found.values - WEIGHT)).sum())

    even = np.ones(64)
    assert error("mse", None, even) < error("max", None, even)
    assert error("mse", importance, importance) < error("mse", None, importance)


def test_an_output_of_zeros_stays_one() -> None:
    weight = WEIGHT.copy()
    weight[:, 3] = 0
    found = quantize_weight(weight, MODES["int8"], "mse", np.dtype(np.float16))
    assert found.scales[0, 3] == 1 and not found.values[:, 3].any()


def test_scales_are_numbers_of_the_graphs_type() -> None:
    found = quantize_weight(WEIGHT * 1e-4, MODES["int8"], "max", np.dtype(np.float16))
    assert np.array_equal(found.scales, found.scales.astype(np.float16).astype(np.float32))
    assert np.abs(found.values - WEIGHT * 1e-4).max() < 1e-4 * 0.05


def test_blocks_divide_the_inputs_and_are_several() -> None:
    mode = MODES["int4-weights"]
    assert [block_of(mode, inputs) for inputs in (4096, 96, 64, 48, 50, 16)] == [64, 32, 32, 16, 0, 0]
    assert block_of(MODES["int8"], 50) == 50


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(InputError, match="int8, fp8, int8-weights, int4-weights"):
        mode_named("int2")
