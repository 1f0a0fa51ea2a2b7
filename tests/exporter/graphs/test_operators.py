"""The operators' ONNX functions, executed: by ONNX Runtime in float32, by onnx.reference truly in half."""

from collections.abc import Iterable

import ml_dtypes
import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime
import pytest
from memvp_export.exporter.graphs.operators import add_functions, own_schemas, translation_table
from memvp_export.plugins import reference
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

BATCH, TOKENS, WIDTH, TABLE_ROWS = 3, 5, 24, 9
ELEMENTS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
PORTS = {
    "VisualMemoryFFN": ("hidden", "ffn", "visual", "key_positions", "value_positions"),
    "ApproximatedPrompt": ("hidden", "attention", "keys", "values"),
}
Arrays = dict[str, np.ndarray]


def memory_arrays(rows: int = 4, visual_batch: int = BATCH, dtype: str = "float32") -> Arrays:
    shapes = [(BATCH, TOKENS, WIDTH)] * 2 + [(visual_batch, rows, WIDTH)] + [(TABLE_ROWS, WIDTH)] * 2
    return arrays("VisualMemoryFFN", shapes, dtype)


def prompt_arrays(dtype: str = "float32") -> Arrays:
    return arrays("ApproximatedPrompt", [(BATCH, TOKENS, WIDTH)] * 2 + [(TABLE_ROWS, WIDTH)] * 2, dtype)


def arrays(operator: str, shapes: Iterable[tuple[int, ...]], dtype: str) -> Arrays:
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal(shape).astype(DTYPES[dtype]) for shape in shapes]
    return dict(zip(PORTS[operator], noise, strict=True))


def one_node(operator: str, inputs: Arrays, opset: int = 20, **attributes: object) -> onnx.ModelProto:
    """A checked model of one node, batch and tokens dynamic, with the operator's function attached."""
    element = ELEMENTS[next(iter(inputs.values())).dtype.name]
    ports = [
        helper.make_tensor_value_info(name, element, ["batch", "tokens", a.shape[-1]] if i < 2 else a.shape)
        for i, (name, a) in enumerate(inputs.items())
    ]
    output = helper.make_tensor_value_info("output", element, ["batch", "tokens", inputs["hidden"].shape[-1]])
    node = helper.make_node(operator, PORTS[operator], ["output"], domain="memvp", **attributes)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("memvp", 1)]
    graph = helper.make_graph([node], "one", ports, [output])
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))
    add_functions(model, opset)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def onnxruntime_of(model: onnx.ModelProto, inputs: Arrays) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def half_arithmetic(model: onnx.ModelProto, inputs: Arrays) -> np.ndarray:
    """The function inlined: onnx.reference expands Gelu only where it knows types."""
    inlined = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(model))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(ReferenceEvaluator(inlined).run(None, inputs)[0])


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.linalg.norm(actual.astype(np.float64) - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("opset", [20, 22, 23])
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_onnxruntime_executes_the_memory(activation: str, opset: int) -> None:
    for rows in (4, TABLE_ROWS):
        for visual_batch in (1, BATCH):
            inputs = memory_arrays(rows, visual_batch)
            model = one_node("VisualMemoryFFN", inputs, opset, scale=0.3, activation=activation)
            expected = reference.visual_memory_ffn(**inputs, scale=0.3, activation=activation)
            assert distance(onnxruntime_of(model, inputs), expected) < 1e-6
            assert distance(inputs["ffn"], expected) > 0.1


@pytest.mark.parametrize("opset", [20, 22, 23])
def test_onnxruntime_executes_the_prompt(opset: int) -> None:
    inputs = prompt_arrays()
    model = one_node("ApproximatedPrompt", inputs, opset)
    assert distance(onnxruntime_of(model, inputs), reference.approximated_prompt(**inputs)) < 1e-6


def test_the_scale_of_the_node_is_the_one_that_counts() -> None:
    inputs = memory_arrays()
    outputs = [
        onnxruntime_of(one_node("VisualMemoryFFN", inputs, scale=scale, activation="silu"), inputs)
        for scale in (0.0, 1.0, 2.0)
    ]
    np.testing.assert_array_equal(outputs[0], inputs["ffn"])
    np.testing.assert_allclose(outputs[2] - outputs[0], 2 * (outputs[1] - outputs[0]), rtol=1e-3, atol=1e-4)


def test_padding_and_cutting_are_left_out_where_every_row_has_an_image() -> None:
    def body(rows: int) -> set[str]:
        model = one_node("VisualMemoryFFN", memory_arrays(rows), scale=1.0, activation="relu")
        return {node.op_type for node in model.functions[0].node}

    assert body(4) - body(TABLE_ROWS) == {"Pad", "Slice"}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 3e-3), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_half_functions_are_right_in_half_arithmetic(activation: str, dtype: str, tolerance: float) -> None:
    inputs = memory_arrays(dtype=dtype)
    model = one_node("VisualMemoryFFN", inputs, 22, scale=0.3, activation=activation)
    actual = half_arithmetic(model, inputs)
    expected = reference.visual_memory_ffn(**inputs, scale=0.3, activation=activation)
    assert actual.dtype.name == dtype
    assert 1e-5 < distance(actual, expected) < tolerance


def test_the_memory_computes_in_half_and_the_prompt_squares_in_float32() -> None:
    """Scores of 384, whose squares no float16 holds: the memory's values overflow, the prompt's product does not."""
    large = np.full((1, 1, 64), 2, np.float16)
    table = np.full((3, 64), 3, np.float16)
    memory = dict(zip(PORTS["VisualMemoryFFN"], (large, large, large * 0, table, table * 100), strict=True))
    model = one_node("VisualMemoryFFN", memory, scale=1e-3, activation="relu")
    assert np.isinf(half_arithmetic(model, memory)).all()
    assert reference.visual_memory_ffn(**memory, scale=1e-3, activation="relu").max() < 1000

    prompt = dict(zip(PORTS["ApproximatedPrompt"], (large, large, table, table / 1000), strict=True))
    actual = half_arithmetic(one_node("ApproximatedPrompt", prompt), prompt)
    assert actual.dtype == np.float16 and distance(actual, reference.approximated_prompt(**prompt)) < 2e-3


def test_one_activation_a_file() -> None:
    inputs = memory_arrays()
    model = one_node("VisualMemoryFFN", inputs, scale=1.0, activation="relu")
    del model.functions[:]
    node = model.graph.node.add()
    node.CopyFrom(model.graph.node[0])
    node.output[0] = "second"
    next(a for a in node.attribute if a.name == "activation").s = b"gelu"
    with pytest.raises(ValueError, match="one activation"):
        add_functions(ir.from_proto(model), 20)


def test_an_unknown_activation_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="no activation 'tanh'; known: silu, relu, gelu, quick_gelu"):
        one_node("VisualMemoryFFN", memory_arrays(), scale=1.0, activation="tanh")


def test_schemas_are_there_for_the_trace_alone() -> None:
    """Where a schema is registered, the checker passes over a function's body."""
    with own_schemas():
        schema = onnx.defs.get_schema("VisualMemoryFFN", domain="memvp")
        assert [port.name for port in schema.inputs] == list(PORTS["VisualMemoryFFN"])
        assert set(schema.attributes) == {"scale", "activation"}
        assert translation_table(20).keys() == translation_table(22).keys()
    assert not onnx.defs.has("VisualMemoryFFN", "memvp")


def test_the_checker_sees_a_body_that_cannot_be() -> None:
    inputs = memory_arrays()
    model = one_node("VisualMemoryFFN", inputs, scale=1.0, activation="relu")
    onnx.checker.check_model(model, full_check=True)
    product = next(node for node in model.functions[0].node if node.op_type == "MatMul")
    product.input[1] = product.input[0]
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.checker.check_model(model, full_check=True)
