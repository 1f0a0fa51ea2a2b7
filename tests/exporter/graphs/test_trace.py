"""Small components traced: what the tracer keeps, fixes and refuses."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch.nn.functional as F
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs.passes import TRANSPOSED
from memvp_export.exporter.graphs.trace import check_opset, default_opset, trace
from memvp_export.exporter.models.component import Component, Port, Weight
from memvp_export.exporter.models.memory import approximated_prompt, visual_memory_ffn
from memvp_export.plugins import reference
from torch import Tensor

WIDTH, TABLE_ROWS = 8, 5
Forward = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], tuple[Any, ...]]


def component(forward: Forward, weights: Mapping[str, Weight], rows: int = TABLE_ROWS) -> Component:
    return Component(
        name="small",
        inputs=(
            Port("hidden", "graph", ("batch", "sequence", WIDTH)),
            Port("visual", "graph", ("batch", rows, WIDTH)),
        ),
        outputs=(Port("output", "graph", ("batch", "sequence", WIDTH)),),
        weights=dict(weights),
        forward=forward,
        ranges={},
    )


TABLES = {"keys": Weight((TABLE_ROWS, WIDTH)), "values": Weight((TABLE_ROWS, WIDTH))}


def lookup(weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], scale: float, activation: str) -> Tensor:
    hidden = inputs["hidden"]
    return visual_memory_ffn(hidden, hidden, inputs["visual"], weights["keys"], weights["values"], scale, activation)


def with_values(model: ir.Model, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    for name, array in weights.items():
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(array.T.copy() if TRANSPOSED in value.metadata_props else array, name=name)
    return ir.to_proto(model)


def test_values_that_are_the_schemas_defaults_are_written_all_the_same() -> None:
    """A plugin never sees a schema: an attribute that is left out would be lost."""
    model = trace(component(lambda w, i: (lookup(w, i, 1.0, "relu"),), TABLES), "fp32", 20)
    (node,) = [node for node in model.graph if node.domain == "memvp"]
    assert {name: a.value for name, a in node.attributes.items()} == {"scale": 1.0, "activation": "relu"}
    (function,) = model.functions.values()
    assert {"Pad", "Slice"}.isdisjoint(node.op_type for node in function)

    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(weight.shape).astype(np.float32) for name, weight in TABLES.items()}
    hidden = rng.standard_normal((4, 1, WIDTH)).astype(np.float32)
    visual = rng.standard_normal((4, TABLE_ROWS, WIDTH)).astype(np.float32)
    session = onnxruntime.InferenceSession(with_values(model, weights).SerializeToString())
    (actual,) = session.run(None, {"hidden": hidden, "visual": visual})
    expected = reference.visual_memory_ffn(hidden, hidden, visual, weights["keys"], weights["values"], 1.0, "relu")
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_two_activations_in_one_graph_are_refused() -> None:
    def forward(weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> tuple[Tensor]:
        return (lookup(weights, inputs, 1.0, "relu") + lookup(weights, inputs, 1.0, "gelu"),)

    with pytest.raises(ValueError, match="one activation"):
        trace(component(forward, TABLES), "fp32", 20)


def test_the_prompt_is_traced_as_one_node() -> None:
    def forward(weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> tuple[Tensor]:
        attention = inputs["hidden"] + inputs["visual"].sum(1, True)
        return (approximated_prompt(inputs["hidden"], attention, weights["keys"], weights["values"]),)

    model = trace(component(forward, TABLES), "fp16", 20)
    assert [node.op_type for node in model.graph if node.domain == "memvp"] == ["ApproximatedPrompt"]
    assert [function.name for function in model.functions.values()] == ["ApproximatedPrompt"]


def test_weights_are_stored_transposed_only_where_nothing_else_reads_them() -> None:
    weights = {name: Weight((WIDTH, WIDTH)) for name in ("a.weight", "b.weight")}

    def forward(w: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> tuple[Tensor]:
        x = F.linear(F.linear(inputs["hidden"], w["a.weight"]), w["b.weight"])
        return (x + inputs["visual"].sum(1, True) @ w["b.weight"],)

    model = trace(component(forward, weights), "fp32", 20)
    transposed = {name: TRANSPOSED in value.metadata_props for name, value in model.graph.initializers.items()}
    assert transposed["a.weight"] and not transposed["b.weight"]
    assert [node.inputs[0].name for node in model.graph if node.op_type == "Transpose"] == ["b.weight"]

    rng = np.random.default_rng(0)
    a, b, hidden, visual = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((8, 8), (8, 8), (2, 3, 8), (2, TABLE_ROWS, 8))
    )
    session = onnxruntime.InferenceSession(with_values(model, {"a.weight": a, "b.weight": b}).SerializeToString())
    (actual,) = session.run(None, {"hidden": hidden, "visual": visual})
    np.testing.assert_allclose(actual, hidden @ a.T @ b.T + visual.sum(1, keepdims=True) @ b, rtol=1e-4, atol=1e-4)


def test_no_weight_has_a_value_while_tracing() -> None:
    huge = {"keys": Weight((TABLE_ROWS, WIDTH)), "values": Weight((1 << 34, WIDTH))}

    def forward(weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> tuple[Tensor]:
        rows = weights["keys"][:1] + weights["values"][:1]
        return (inputs["hidden"] + rows + inputs["visual"].sum(1, True),)

    model = trace(component(forward, huge), "fp32", 20)
    assert model.graph.initializers["values"].const_value is None


def test_a_weight_that_nothing_reads_is_noticed() -> None:
    def forward(weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> tuple[Tensor]:
        return (inputs["hidden"] + weights["keys"][:1] + inputs["visual"].sum(1, True),)

    with pytest.raises(AssertionError, match="never reads values"):
        trace(component(forward, TABLES), "fp32", 20)


def test_a_dimension_that_the_forward_pass_fixes_is_noticed() -> None:
    def forward(weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> tuple[Tensor]:
        return (inputs["hidden"][:, :1] + inputs["visual"].sum(1, True) + weights["keys"][0] + weights["values"][0],)

    with pytest.raises(AssertionError, match="output: traced as"):
        trace(component(forward, TABLES), "fp32", 20)


@pytest.mark.parametrize(("precision", "opset"), [("fp32", 20), ("fp16", 20), ("bf16", 22)])
def test_default_opsets(precision: str, opset: int) -> None:
    assert default_opset(precision) == opset
    check_opset(opset, precision)
    check_opset(23, precision)


@pytest.mark.parametrize(("precision", "opset"), [("fp32", 19), ("fp16", 17), ("bf16", 21), ("fp32", 24)])
def test_opsets_that_cannot_be_written_are_refused(precision: str, opset: int) -> None:
    with pytest.raises(InputError, match=f"opset {opset} cannot be exported in {precision}; choose 2[02] to 23"):
        check_opset(opset, precision)
