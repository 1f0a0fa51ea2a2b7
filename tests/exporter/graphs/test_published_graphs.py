"""What is in a published graph, whoever reads it: operators, functions, types, names, the contract of its ports."""

import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

GraphOf = Callable[[str, str], onnx.ModelProto]
LAYERS, HEADS, HEAD_WIDTH, WIDTH, VISUAL_ROWS, TABLE_ROWS, VOCABULARY = 3, 6, 16, 96, 256, 290, 150
COMPONENTS = ("vision", "decoder")
GRAPH_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
OPSETS = {"fp32": 20, "fp16": 20, "bf16": 22}
HALVES = ("fp16", "bf16")

ARITHMETIC = {"Add", "Mul", "Sub", "MatMul", "Reciprocal", "ReduceMean", "Sigmoid", "Softmax", "Sqrt", "Cast"}
LAYOUT = {"Concat", "Reshape", "Shape", "Slice", "Transpose", "Unsqueeze"}
OPERATORS = {
    "vision": ARITHMETIC | LAYOUT | {"Conv", "Expand", "Gelu", "Split"},
    "decoder": ARITHMETIC
    | LAYOUT
    | {"And", "Cos", "Equal", "Gather", "GatherND", "LessOrEqual", "Not", "Range", "Sin", "Squeeze", "Where"}
    | {"VisualMemoryFFN"},
}

every_graph = pytest.mark.parametrize("component", COMPONENTS)
every_precision = pytest.mark.parametrize("precision", GRAPH_TYPES)


def types(graph: onnx.GraphProto) -> dict[str, int]:
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def described(values: list[onnx.ValueInfoProto]) -> list[tuple[str, int, list[int | str]]]:
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in values
    ]


def attributes(node: onnx.NodeProto) -> dict:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def test_the_checker_passes_them_without_this_project(bundle_of: Callable[[str], Path]) -> None:
    """In a process of its own: here the operators' schemas are registered."""
    files = [str(bundle_of(p) / "graphs" / f"{c}.onnx") for p in GRAPH_TYPES for c in COMPONENTS]
    code = (
        "import sys, onnx\n"
        "for path in sys.argv[1:]: onnx.checker.check_model(path, full_check=True)\n"
        "assert not onnx.defs.has('VisualMemoryFFN', 'memvp') and 'memvp_export' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, *files], check=True)


@every_graph
@every_precision
def test_opset_and_operators(graph_of: GraphOf, precision: str, component: str) -> None:
    model = graph_of(precision, component)
    own = {"memvp": 1} if component == "decoder" else {}
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSETS[precision], **own}
    assert {node.op_type for node in model.graph.node} <= OPERATORS[component]
    assert {node.domain for node in model.graph.node} == {"", *own}
    expands = [node.input[0] for node in model.graph.node if node.op_type == "Expand"]
    assert expands == (["visual.class_embedding"] if component == "vision" else [])


@every_precision
def test_the_memory_is_one_node_a_layer_with_all_its_attributes(graph_of: GraphOf, precision: str) -> None:
    nodes = [node for node in graph_of(precision, "decoder").graph.node if node.domain == "memvp"]
    assert len(nodes) == LAYERS
    for i, node in enumerate(nodes):
        assert attributes(node) == {"scale": pytest.approx(0.1), "activation": b"silu"}
        assert node.input[0] == f"model.layers.{i}.post_attention_layernorm/Mul"
        assert node.input[1] == f"model.layers.{i}.mlp.down_proj/MatMul"
        assert list(node.input)[2:] == ["visual_memory", "adapter_emb1", "adapter_emb2"]


@every_precision
def test_the_function_is_the_factored_form(graph_of: GraphOf, precision: str) -> None:
    model = graph_of(precision, "decoder")
    assert len(graph_of(precision, "vision").functions) == 0
    (function,) = model.functions
    assert (function.domain, function.name, function.overload) == ("memvp", "VisualMemoryFFN", "")
    assert list(function.input) == ["hidden", "ffn", "visual", "key_positions", "value_positions"]
    assert set(function.attribute) == {"scale", "activation"} and not function.attribute_proto
    assert [(entry.domain, entry.version) for entry in function.opset_import] == [("", OPSETS[precision])]

    made = {name: node for node in function.node for name in node.output}

    def written(name: str) -> str:
        """The formula behind a value; activations, pads and cuts by their names."""
        if name not in made:
            return name
        node = made[name]
        match node.op_type:
            case "MatMul":
                return f"({written(node.input[0])} @ {written(node.input[1])})"
            case "Add":
                return f"({written(node.input[0])} + {written(node.input[1])})"
            case "Mul":
                left, right = written(node.input[0]), written(node.input[1])
                return f"silu({left})" if right == f"Sigmoid({left})" else f"({left} * {right})"
            case "Constant":
                return "scale" if node.attribute[0].ref_attr_name == "scale" else node.op_type
            case kind:
                return f"{kind}({written(node.input[0])})"

    scores = "((hidden @ Transpose(key_positions)) + Pad((hidden @ Transpose(visual))))"
    looked_up = f"((silu({scores}) @ value_positions) + (Slice(silu({scores})) @ visual))"
    assert written(function.output[0]) == f"(ffn + ({looked_up} * CastLike(scale)))"


@every_precision
def test_ports_are_the_contract(graph_of: GraphOf, precision: str) -> None:
    own, single, integer = GRAPH_TYPES[precision], TensorProto.FLOAT, TensorProto.INT64
    vision, decoder = graph_of(precision, "vision").graph, graph_of(precision, "decoder").graph
    assert described(vision.input) == [
        ("pixel_values", single, ["batch", 3, 224, 224]),
        ("image_indicator", single, ["batch"]),
    ]
    assert described(vision.output) == [("visual_memory", own, ["batch", VISUAL_ROWS, WIDTH])]

    def caches(prefix: str, columns: str) -> list[tuple[str, int, list[int | str]]]:
        dims: list[int | str] = ["batch", HEADS, columns, HEAD_WIDTH]
        return [(f"{prefix}.{i}.{kind}", own, dims) for i in range(LAYERS) for kind in ("key", "value")]

    assert described(decoder.input) == [
        ("input_ids", integer, ["batch", "sequence"]),
        ("attention_mask", integer, ["batch", "past_sequence + sequence"]),
        ("position_ids", integer, ["batch", "sequence"]),
        ("logits_positions", integer, ["batch", "positions"]),
        ("visual_memory", own, ["batch", VISUAL_ROWS, WIDTH]),
        *caches("past_key_values", "past_sequence"),
    ]
    assert described(decoder.output) == [
        ("logits", single, ["batch", "positions", VOCABULARY]),
        *caches("present", "past_sequence + sequence"),
    ]


@every_graph
@pytest.mark.parametrize("precision", HALVES)
def test_norms_softmax_and_rotation_stay_float32(graph_of: GraphOf, precision: str, component: str) -> None:
    graph = graph_of(precision, component).graph
    known = types(graph)
    single = {"Softmax", "ReduceMean", "Sqrt", "Reciprocal", "Cos", "Sin", "Where"}
    for node in graph.node:
        if node.op_type in single:
            assert known[node.output[0]] == TensorProto.FLOAT, node.name
        if node.op_type in ("MatMul", "Conv", "Gelu", "Sigmoid", "VisualMemoryFFN"):
            assert {known[name] for name in node.input} == {GRAPH_TYPES[precision]}, node.name


@every_graph
@pytest.mark.parametrize("precision", HALVES)
def test_only_the_towers_norms_are_stored_in_float32(graph_of: GraphOf, precision: str, component: str) -> None:
    stored = [tensor for tensor in graph_of(precision, component).graph.initializer if tensor.external_data]
    single = {tensor.name for tensor in stored if tensor.data_type == TensorProto.FLOAT}
    if component == "decoder":
        assert single == {"rotary.inverse_frequencies"}
    else:
        assert single == {tensor.name for tensor in stored if ".ln_" in tensor.name} and len(single) == 12
    assert {tensor.data_type for tensor in stored} == {TensorProto.FLOAT, GRAPH_TYPES[precision]}


@every_graph
def test_precisions_share_all_names_but_casts(graph_of: GraphOf, component: str) -> None:
    names = [
        [node.name for node in graph_of(precision, component).graph.node if node.op_type != "Cast"]
        for precision in GRAPH_TYPES
    ]
    assert names[0] == names[1] == names[2]
    assert all(names[0]) and len(set(names[0])) == len(names[0])


@every_graph
@every_precision
def test_weights_lie_beside_the_graph_under_official_names(graph_of: GraphOf, precision: str, component: str) -> None:
    graph = graph_of(precision, component).graph
    outside = [tensor for tensor in graph.initializer if tensor.external_data]
    inside = [tensor for tensor in graph.initializer if not tensor.external_data]
    assert sum(tensor.ByteSize() for tensor in inside) < 4096
    locations = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    assert locations == {f"{component}.onnx.data"}
    expected = {"decoder": "model.layers.2.mlp.up_proj.weight", "vision": "adapter_proj.fc2.bias"}[component]
    assert expected in {tensor.name for tensor in outside}


@every_graph
@every_precision
def test_nothing_of_the_exporting_machine_is_in_the_file(
    bundle_of: Callable[[str], Path], odd_source: Path, precision: str, component: str
) -> None:
    folders = [odd_source, bundle_of(precision), Path.cwd(), Path.home(), sys.prefix, tempfile.gettempdir()]
    traces = (".py", "Traceback", "site-packages", "stack_trace", "pkg.torch", "nn_module_stack", "weight_0")
    content = (bundle_of(precision) / "graphs" / f"{component}.onnx").read_bytes()
    for text in (*map(str, folders), *traces, socket.gethostname()):
        assert text.encode() not in content, text


@every_graph
@every_precision
def test_the_file_says_who_made_it_and_in_which_precision(graph_of: GraphOf, precision: str, component: str) -> None:
    model = graph_of(precision, component)
    assert (model.producer_name, model.graph.name, model.ir_version) == ("memvp-export", component, 10)
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("precision", precision)]
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
