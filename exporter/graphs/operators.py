"""The project's operators in ONNX: schemas for the tracer, translations, and the local functions' bodies.

The tracer emits a node without a body; `add_functions` attaches the body afterwards, because torch's exporter inlines
every function it is given.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx import helper
from onnxscript.values import Opset

# Importing these defines the torch operators that are translated here.
from ..models import layers, memory, resnet  # noqa: F401

DOMAIN = "memvp"
VERSION = 1
_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]

VISUAL_MEMORY = "VisualMemoryFFN"
APPROXIMATED_PROMPT = "ApproximatedPrompt"
_INPUTS = {
    VISUAL_MEMORY: ("hidden", "ffn", "visual", "key_positions", "value_positions"),
    APPROXIMATED_PROMPT: ("hidden", "attention", "keys", "values"),
}


def translation_table(opset: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """torch operator -> ONNX node, for `torch.onnx.export(custom_translation_table=...)` inside `own_schemas`."""
    own = Opset(DOMAIN, VERSION)
    standard = Opset("", opset)

    def visual_memory_ffn(hidden, ffn, visual, key_positions, value_positions, scale, activation):  # type: ignore[no-untyped-def]
        return own.VisualMemoryFFN(
            hidden, ffn, visual, key_positions, value_positions, scale=scale, activation=activation
        )

    def approximated_prompt(hidden, attention, keys, values):  # type: ignore[no-untyped-def]
        return own.ApproximatedPrompt(hidden, attention, keys, values)

    def select_positions(hidden, positions):  # type: ignore[no-untyped-def]
        last = standard.Constant(value_ints=[-1])
        return standard.GatherND(hidden, standard.Unsqueeze(positions, last), batch_dims=1)

    def group_norm(x, weight, bias, groups, eps):  # type: ignore[no-untyped-def]
        # The mean and variance of a group are those of an instance whose channel is all of the group.
        ones, zeros = (standard.Constant(value_floats=[value] * groups) for value in (1.0, 0.0))
        grouped = standard.Reshape(x, standard.Constant(value_ints=[0, groups, -1]))
        normed = standard.InstanceNormalization(grouped, ones, zeros, epsilon=eps)
        axes = standard.Constant(value_ints=[1, 2])
        scaled = standard.Mul(standard.Reshape(normed, standard.Shape(x)), standard.Unsqueeze(weight, axes))
        return standard.Add(scaled, standard.Unsqueeze(bias, axes))

    def halve(x, weight, bias):  # type: ignore[no-untyped-def]
        return standard.Conv(x, weight, bias, pads=[1, 1, 1, 1], strides=[2, 2])

    return {
        torch.ops.memvp.group_norm.default: group_norm,
        torch.ops.memvp.halve.default: halve,
        torch.ops.memvp.visual_memory_ffn.default: visual_memory_ffn,
        torch.ops.memvp.approximated_prompt.default: approximated_prompt,
        torch.ops.memvp.select_positions.default: select_positions,
    }


@contextmanager
def own_schemas() -> Iterator[None]:
    """The tracer needs schemas of the operators it emits. They are taken away again: where one is registered, onnx's
    checker and shape inference pass over a function's body."""
    attributes = {
        VISUAL_MEMORY: [helper.make_attribute("scale", 1.0), helper.make_attribute("activation", "relu")],
        APPROXIMATED_PROMPT: [],
    }
    for name, inputs in _INPUTS.items():
        schema = onnx.defs.OpSchema(
            name,
            DOMAIN,
            VERSION,
            inputs=[onnx.defs.OpSchema.FormalParameter(i, "T") for i in inputs],
            outputs=[onnx.defs.OpSchema.FormalParameter("output", "T")],
            type_constraints=[("T", _FLOATS, "")],
            attributes=[onnx.defs.OpSchema.Attribute(a.name, a, "") for a in attributes[name]],
        )
        onnx.defs.register_schema(schema)
    try:
        yield
    finally:
        for name in _INPUTS:
            onnx.defs.deregister_schema(name, VERSION, DOMAIN)


def add_functions(model: ir.Model, opset: int) -> None:
    """Attach the body of every own operator that `model` uses. One activation and one (v, p) a file."""
    nodes = [node for node in model.graph if node.domain == DOMAIN]
    for name, body in ((VISUAL_MEMORY, _visual_memory_body), (APPROXIMATED_PROMPT, _approximated_prompt_body)):
        used = [node for node in nodes if node.op_type == name]
        if used:
            function = ir.serde.deserialize_function(body(used, opset))
            model.functions[function.identifier()] = function
            model.opset_imports[DOMAIN] = VERSION


def _visual_memory_body(used: list[ir.Node], opset: int) -> onnx.FunctionProto:
    """`S = h Pk^T + pad(h Z^T); a = act(S); out = ffn + scale (a Pv + a[..., :v] Z)` (docs/operators.md)."""
    variants = {_variant(node) for node in used}
    if len(variants) > 1:
        raise ValueError(f"a graph takes one activation and one (v, p), this one has {sorted(variants)}")
    activation, rows, table_rows = variants.pop()
    node = helper.make_node
    nodes = [
        node("Transpose", ["key_positions"], ["table_keys"], perm=[1, 0]),
        node("MatMul", ["hidden", "table_keys"], ["table_scores"]),
        node("Transpose", ["visual"], ["visual_keys"], perm=[0, 2, 1]),
        node("MatMul", ["hidden", "visual_keys"], ["visual_scores"]),
    ]
    padded = "visual_scores"
    if rows < table_rows:
        padded = "padded_scores"
        nodes += [
            node("Constant", [], ["pads"], value_ints=[0, 0, 0, 0, 0, table_rows - rows]),
            node("Pad", ["visual_scores", "pads"], [padded]),
        ]
    nodes.append(node("Add", ["table_scores", padded], ["scores"]))
    nodes += _activation(activation, "scores", "activations", opset)
    nodes.append(node("MatMul", ["activations", "value_positions"], ["table_values"]))
    visual_activations = "activations"
    if rows < table_rows:
        visual_activations = "visual_activations"
        nodes += [
            node("Constant", [], ["start"], value_ints=[0]),
            node("Constant", [], ["end"], value_ints=[rows]),
            node("Constant", [], ["axis"], value_ints=[2]),
            node("Slice", ["activations", "start", "end", "axis"], [visual_activations]),
        ]
    scale = node("Constant", [], ["scale_value"])
    reference = scale.attribute.add()
    reference.name, reference.ref_attr_name, reference.type = "value_float", "scale", onnx.AttributeProto.FLOAT
    nodes += [
        node("MatMul", [visual_activations, "visual"], ["visual_values"]),
        node("Add", ["table_values", "visual_values"], ["looked_up"]),
        scale,
        node("CastLike", ["scale_value", "looked_up"], ["typed_scale"]),
        node("Mul", ["looked_up", "typed_scale"], ["scaled"]),
        node("Add", ["ffn", "scaled"], ["output"]),
    ]
    return _function(VISUAL_MEMORY, nodes, opset, attributes=["scale", "activation"])


def _variant(node: ir.Node) -> tuple[str, int, int]:
    visual, keys = node.inputs[2], node.inputs[3]
    assert visual is not None and visual.shape is not None and keys is not None and keys.shape is not None
    return node.attributes["activation"].as_string(), int(visual.shape[1]), int(keys.shape[0])  # type: ignore[arg-type]


def _approximated_prompt_body(used: list[ir.Node], opset: int) -> onnx.FunctionProto:
    """`a = relu(h K^T); out = attention + rowmax(a) * (a V)`, the product in float32 (docs/operators.md)."""
    node = helper.make_node
    nodes = [
        node("Transpose", ["keys"], ["columns"], perm=[1, 0]),
        node("MatMul", ["hidden", "columns"], ["scores"]),
        node("Relu", ["scores"], ["activations"]),
        node("Cast", ["activations"], ["activations32"], to=onnx.TensorProto.FLOAT),
        node("Cast", ["values"], ["values32"], to=onnx.TensorProto.FLOAT),
        node("Constant", [], ["last"], value_ints=[-1]),
        node("ReduceMax", ["activations32", "last"], ["weight"], keepdims=1),
        node("MatMul", ["activations32", "values32"], ["looked_up"]),
        node("Mul", ["looked_up", "weight"], ["weighted32"]),
        node("CastLike", ["weighted32", "attention"], ["weighted"]),
        node("Add", ["attention", "weighted"], ["output"]),
    ]
    return _function(APPROXIMATED_PROMPT, nodes, opset, attributes=[])


def _activation(name: str, x: str, y: str, opset: int) -> list[onnx.NodeProto]:
    node = helper.make_node
    match name:
        case "relu":
            return [node("Relu", [x], [y])]
        case "silu":
            return [node("Sigmoid", [x], ["gate"]), node("Mul", [x, "gate"], [y])]
        case "gelu":
            return [node("Gelu", [x], [y])]
        case "quick_gelu":
            return [
                node("Constant", [], ["steepness"], value_float=1.702),
                node("CastLike", ["steepness", x], ["typed_steepness"]),
                node("Mul", [x, "typed_steepness"], ["steep"]),
                node("Sigmoid", ["steep"], ["gate"]),
                node("Mul", [x, "gate"], [y]),
            ]
    raise ValueError(f"no activation {name!r}; known: {', '.join(memory.ACTIVATIONS)}")


def _function(name: str, nodes: list[onnx.NodeProto], opset: int, attributes: list[str]) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", opset)]
    return helper.make_function(DOMAIN, name, _INPUTS[name], ["output"], nodes, imports, attributes=attributes)
