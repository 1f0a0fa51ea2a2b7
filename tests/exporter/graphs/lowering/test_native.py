"""The natively lowered decoder gives the published one's answers; the formula holds for any sizes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs.lowering import Lowered
from memvp_export.exporter.graphs.lowering.native import merge_memory, merged_bytes
from memvp_export.exporter.graphs.lowering.stored import NewWeights
from memvp_export.exporter.graphs.operators import add_functions
from memvp_export.plugins import reference
from onnx import TensorProto, helper, numpy_helper

from .decoder_inputs import decoder_inputs

Arrays = dict[str, np.ndarray]
LoweredOf = Callable[..., Lowered]
Run = Callable[[Path, Arrays], Arrays]
# Relative to the largest value; half a unit in float16's last place is 5e-4.
TOLERANCE = {"fp32": 2e-6, "fp16": 2e-3}
CALLS = ((2, 5, 7), (1, 1, 9), (2, 4, 0))


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual.astype(np.float64) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("precision", TOLERANCE)
def test_the_decoder_answers_as_published(
    lowered_of: LoweredOf, bundle_of: Callable[[str], Path], run: Run, precision: str, call: tuple[int, int, int]
) -> None:
    inputs = decoder_inputs(precision, *call)
    expected = run(bundle_of(precision) / "graphs" / "decoder.onnx", inputs)
    actual = run(lowered_of("decoder", precision, cache="concat").path, inputs)
    assert actual.keys() == expected.keys()
    for name in expected:
        assert distance(actual[name], expected[name]) < TOLERANCE[precision], name


def test_another_image_gives_another_answer(lowered_of: LoweredOf, run: Run) -> None:
    """Every visual row counts, the last one too, in which padding would show."""
    path = lowered_of("decoder", "fp32").path
    inputs = decoder_inputs("fp32", 2, 3, 4)
    changed = {**inputs, "visual_memory": inputs["visual_memory"].copy()}
    changed["visual_memory"][1, -1] += 1
    first, second = run(path, inputs)["logits"], run(path, changed)["logits"]
    assert np.array_equal(first[0], second[0]) and distance(second[1], first[1]) > 1e-3


BATCH, TOKENS, WIDTH, INNER = 2, 3, 16, 24


def block(rows: int, table_rows: int, activation: str, weights: Arrays, shared: bool = False) -> onnx.ModelProto:
    """`ffn = hidden W1 W2 + bias` and a memory beside it; shared lets a second output read the down projection."""
    element = TensorProto.FLOAT
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["hidden", "W1"], ["inner"], "up"),
        helper.make_node("MatMul", ["inner", "W2"], ["product"], "down"),
        helper.make_node("Add", ["product", "bias"], ["ffn"], "biased"),
        helper.make_node(
            "VisualMemoryFFN",
            ["hidden", "ffn", "visual", "keys", "values"],
            ["output"],
            "memory",
            domain="memvp",
            scale=0.7,
            activation=activation,
        ),
    ]
    outputs = [info("output", element, ["batch", "tokens", WIDTH])]
    if shared:
        nodes.append(helper.make_node("Add", ["product", "product"], ["twice"], "twice"))
        outputs.append(info("twice", element, ["batch", "tokens", WIDTH]))
    inputs = [
        info("hidden", element, ["batch", "tokens", WIDTH]),
        info("visual", element, ["batch", rows, WIDTH]),
    ]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "block", inputs, outputs, stored)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("memvp", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))
    add_functions(model, 20)
    return ir.to_proto(model)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
@pytest.mark.parametrize("rows, table_rows", [(3, 21), (7, 8), (16, 16), (13, 13), (8, 290)])
def test_any_number_of_rows_and_every_activation(
    run: Run, tmp_path: Path, rows: int, table_rows: int, activation: str, shared: bool
) -> None:
    weights = {
        "W1": random(WIDTH, INNER) / 4,
        "W2": random(INNER, WIDTH) / 4,
        "bias": random(WIDTH),
        "keys": random(table_rows, WIDTH),
        "values": random(table_rows, WIDTH)[::-1],
    }
    model = block(rows, table_rows, activation, weights, shared)
    with NewWeights(tmp_path / "new.data", tmp_path / "block.onnx") as new:
        assert merge_memory(model, new) == 1
    del model.functions[:]
    (tmp_path / "block.onnx").write_bytes(model.SerializeToString())
    inputs = {"hidden": random(BATCH, TOKENS, WIDTH), "visual": random(BATCH, rows, WIDTH)}
    actual = run(tmp_path / "block.onnx", inputs)

    product = inputs["hidden"] @ weights["W1"] @ weights["W2"]
    expected = reference.visual_memory_ffn(
        inputs["hidden"],
        product + weights["bias"],
        inputs["visual"],
        weights["keys"],
        weights["values"],
        0.7,
        activation,
    )
    assert distance(actual["output"], expected) < 1e-5
    read = {node.name: list(node.input) for node in model.graph.node}
    if shared:
        assert distance(actual["twice"], 2 * product) < 1e-5 and read["down"] == ["inner", "W2"]
    else:
        assert read["down"] == ["memory/merged", "W2/with_memory"]


@pytest.mark.parametrize("wide_product", [True, False])
def test_a_site_in_float32_reads_half_tables(run: Run, tmp_path: Path, wide_product: bool) -> None:
    """Merged into a down projection that is float32 too; beside one that is half, a product of its own."""
    weights = {"W1": random(WIDTH, INNER) / 4, "W2": random(INNER, WIDTH) / 4, "bias": random(WIDTH)}
    tables = {"keys": random(21, WIDTH).astype(np.float16), "values": random(21, WIDTH)[::-1].astype(np.float16)}
    model = block(13, 21, "silu", weights | tables)
    nodes = {node.name: node for node in model.graph.node}
    casts = []
    for index, name in ((3, "keys"), (4, "values")):
        casts.append(helper.make_node("Cast", [name], [f"wide_{name}"], f"cast_{name}", to=TensorProto.FLOAT))
        nodes["memory"].input[index] = f"wide_{name}"
    if not wide_product:
        nodes["down"].output[0] = "narrow"
        casts.append(helper.make_node("Cast", ["narrow"], ["product"], "cast_product", to=TensorProto.FLOAT))
    ordered = [nodes["up"], nodes["down"], *casts, nodes["biased"], nodes["memory"]]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    size = merged_bytes(model)
    with NewWeights(tmp_path / "new.data", tmp_path / "block.onnx") as new:
        assert merge_memory(model, new) == 1
    del model.functions[:]
    (tmp_path / "block.onnx").write_bytes(model.SerializeToString())
    # Keys of 24 rows, and values of 24 below the rows of W2 or by themselves, all float32.
    assert size == 4 * WIDTH * (24 + 24 + (INNER if wide_product else 0))
    inputs = {"hidden": random(BATCH, TOKENS, WIDTH), "visual": random(BATCH, 13, WIDTH)}
    actual = run(tmp_path / "block.onnx", inputs)
    product = inputs["hidden"] @ weights["W1"] @ weights["W2"] + weights["bias"]
    wide = [table.astype(np.float32) for table in tables.values()]
    expected = reference.visual_memory_ffn(inputs["hidden"], product, inputs["visual"], *wide, 0.7, "silu")
    assert distance(actual["output"], expected) < 1e-5
    assert ("memory/merged" in {node.name for node in model.graph.node}) is wide_product


def test_products_have_widths_that_are_multiples_of_eight(tmp_path: Path) -> None:
    weights = {"W1": random(WIDTH, INNER), "W2": random(INNER, WIDTH), "bias": random(WIDTH)}
    model = block(13, 21, "relu", weights | {"keys": random(21, WIDTH), "values": random(21, WIDTH)})
    with NewWeights(tmp_path / "new.data", tmp_path / "block.onnx") as new:
        merge_memory(model, new)
    del model.functions[:]
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.value_info
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in typed}
    assert shapes["memory/visual_scores"][-1] == 16 and shapes["memory/table_scores"][-1] == 24
    assert shapes["memory/merged"][-1] == INNER + 24 and shapes["memory/visual_activations"][-1] == 16


def test_two_sites_share_padded_rows_and_tables(lowered_of: LoweredOf) -> None:
    graph = onnx.load(lowered_of("decoder", "fp16").path, load_external_data=False).graph
    new = [t.name for t in graph.initializer if any(e.value == "decoder.lowered.data" for e in t.external_data)]
    merged = [f"model.layers.{i}.mlp.down_proj.weight/with_memory" for i in range(3)]
    assert sorted(new) == sorted([*merged, "memory/adapter_emb1", "rotary/Cos/table", "rotary/Sin/table"])
    assert sum(node.op_type == "Transpose" and "memory" in node.name for node in graph.node) == 2


@pytest.mark.parametrize("scale, fits", [(100.0, True), (7e4, False)])
def test_a_scaled_table_that_does_not_fit_half_is_refused(tmp_path: Path, scale: float, fits: bool) -> None:
    table = numpy_helper.from_array(np.ones((3, 8), np.float16), "values")
    with NewWeights(tmp_path / "new.data", tmp_path / "block.onnx") as new:
        if fits:
            new.add("scaled", [(table, scale)], 4)
        else:
            with pytest.raises(InputError, match="values times the memory's scale 70000 does not fit float16"):
                new.add("scaled", [(table, scale)], 4)
    written = np.fromfile(tmp_path / "new.data", np.float16)
    assert written.tolist() == ([100.0] * 24 + [0.0] * 8 if fits else [])
