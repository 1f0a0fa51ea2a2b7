"""Inspection against closed formulas of the models, on graphs that the exporter itself traces."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from memvp_export.exporter.bundle import change, new_bundle
from memvp_export.exporter.checkpoints.lazy import from_array
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs import trace as tracer
from memvp_export.exporter.graphs.weights import write_weights
from memvp_export.exporter.inspection.flops import costs_of, print_flops
from memvp_export.exporter.inspection.path_report import inspect_path
from memvp_export.exporter.models import memvp_llama
from memvp_export.exporter.models.clip_tower import TowerConfig
from memvp_export.exporter.models.component import Component, Port, Weight, constants_of
from memvp_export.exporter.models.memory import approximated_prompt
from onnx import TensorProto, helper

# The odd source's, whose graphs other tests trace too.
CONFIG = memvp_llama.Config(
    tower=TowerConfig(width=64, blocks=3, patch=14, grid=16, adapter_dim=12, adapter_scale=0.1),
    dim=96,
    layers=3,
    heads=6,
    ffn_dim=256,
    vocab=150,
    norm_eps=1e-6,
    rope_theta=1e4,
    projector_dim=24,
    memory_rows=290,
    adapter_scale=0.1,
    visual_scale=0.01,
    max_sequence=512,
    max_batch=64,
)


def write(component: Component, precision: str, folder: Path) -> Path:
    model = tracer.trace(component, precision, tracer.default_opset(precision))
    shapes = {name: weight.shape for name, weight in component.weights.items()}
    random = np.random.default_rng(0)
    tensors = {name: from_array(random.standard_normal(s).astype(np.float32), name) for name, s in shapes.items()}
    path = folder / f"{component.name}.onnx"
    write_weights(model, {**tensors, **constants_of([component])}, folder / f"{component.name}.onnx.data")
    ir.save(model, path)
    return path


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory):
    """graphs(component index, precision, config) -> the traced file, made once."""

    @cache
    def made(index: int, precision: str, config: memvp_llama.Config) -> Path:
        return write(memvp_llama.components(config)[index], precision, tmp_path_factory.mktemp("graph"))

    def make(index: int, precision: str = "fp32", config: memvp_llama.Config = CONFIG) -> Path:
        return made(index, precision, config)

    return make


VISION, DECODER = 0, 1
# Another p; one layer, because a trace takes seconds.
LARGE_MEMORY = replace(CONFIG, layers=1, memory_rows=2 * CONFIG.memory_rows)


def decoder_macs(batch: int, sequence: int, past: int, positions: int) -> tuple[int, int]:
    """A LLaMA decoder without its memory: products with weights, and of queries, keys and values."""
    c = CONFIG
    layers = c.layers * batch * sequence * (4 * c.dim**2 + 3 * c.dim * c.ffn_dim)
    attention = c.layers * batch * 2 * sequence * (past + sequence) * c.dim
    return layers + batch * positions * c.dim * c.vocab, attention


@pytest.mark.parametrize(
    ("shapes", "setting"),
    [
        ({}, (1, 64, 0, 1)),
        ({"sequence": 1, "past_sequence": 37}, (1, 1, 37, 1)),
        ({"batch": 2, "sequence": 5, "past_sequence": 11, "positions": 5}, (2, 5, 11, 5)),
        ({"sequence": 1}, (1, 1, 0, 1)),
    ],
)
def test_decoder_macs_follow_the_closed_formula(graphs, shapes: dict[str, int], setting: tuple[int, ...]) -> None:
    cost = inspect_path(graphs(DECODER), shapes=shapes)["cost"]
    weights, attention = decoder_macs(*setting)
    batch, sequence = setting[:2]
    rows, table_rows = CONFIG.tower.rows, CONFIG.memory_rows
    table = CONFIG.layers * batch * sequence * 2 * table_rows * CONFIG.dim
    visual = CONFIG.layers * batch * sequence * 2 * rows * CONFIG.dim
    assert cost["setting"] == dict(zip(("batch", "sequence", "past_sequence", "positions"), setting, strict=True))
    assert cost["macs_with_weights"] == weights + table
    assert cost["macs_between_activations"] == attention + visual
    assert cost["flops"] == 2 * cost["macs"] == 2 * (weights + attention + table + visual)
    assert cost["memory"]["table_macs"] == table and cost["memory"]["visual_macs"] == visual
    assert cost["memory"]["percent"] == pytest.approx(100 * (table + visual) / (weights + attention))
    assert cost["uncounted"] == []


def test_vision_macs_follow_the_closed_formula(graphs) -> None:
    report = inspect_path(graphs(VISION), shapes={"batch": 3})
    t = CONFIG.tower
    d, tokens, blocks = t.width, t.rows + 1, t.blocks - 1
    block = tokens * (4 * d**2 + 8 * d**2 + 2 * d * t.adapter_dim)
    stem = t.rows * d * 3 * t.patch**2
    head = t.rows * (d * CONFIG.projector_dim + CONFIG.projector_dim * CONFIG.dim)
    assert report["cost"]["macs_with_weights"] == 3 * (stem + blocks * block + head)
    assert report["cost"]["macs_between_activations"] == 3 * blocks * 2 * tokens**2 * d
    assert report["memory"] == [] and report["cost"]["memory"] is None


def test_the_memory_is_described_and_its_rows_move_its_share(graphs) -> None:
    small = inspect_path(graphs(DECODER))
    large = inspect_path(graphs(DECODER, "bf16", LARGE_MEMORY))
    assert small["memory"][1] == {
        "name": "model.layers.1.mlp.down_proj/VisualMemoryFFN",
        "operator": "VisualMemoryFFN",
        "visual_rows": CONFIG.tower.rows,
        "table_rows": CONFIG.memory_rows,
        "width": CONFIG.dim,
        "dtype": "float32",
        "activation": "silu",
        "scale": 0.1,
        "body": True,
    }
    assert len(small["memory"]) == CONFIG.layers
    assert large["memory"][0]["table_rows"] == LARGE_MEMORY.memory_rows
    before, after = small["cost"]["memory"], large["cost"]["memory"]
    assert after["table_macs"] == 2 * before["table_macs"] / CONFIG.layers
    assert after["visual_macs"] == before["visual_macs"] / CONFIG.layers
    assert after["percent"] > before["percent"]


def test_without_the_function_bodies_the_counts_are_the_same(graphs, tmp_path: Path) -> None:
    model = onnx.load(graphs(DECODER), load_external_data=False)
    del model.functions[:]
    onnx.save(model, tmp_path / "lowered.onnx")
    lowered, whole = inspect_path(tmp_path / "lowered.onnx"), inspect_path(graphs(DECODER))
    assert lowered["cost"] == whole["cost"]
    assert not lowered["memory"][0]["body"]


@pytest.mark.parametrize(
    ("precision", "dtype", "config"), [("fp16", "float16", CONFIG), ("bf16", "bfloat16", LARGE_MEMORY)]
)
def test_half_decoder_names_its_float32_islands(graphs, precision: str, dtype: str, config) -> None:
    path, layers = graphs(DECODER, precision, config), config.layers
    report = inspect_path(path)
    groups = {island["reason"]: island["groups"] for island in report["float32_islands"]}
    assert groups == {
        "norm statistics": 2 * layers + 1,
        "rotary": 2 * layers + 1,
        "softmax and mask": layers + 1,
        "output logits": 1,
    }
    assert report["precision"] == dtype
    assert report["nodes"]["by_operator"]["MatMul"] == {dtype: 9 * layers + 1}
    assert report["nodes"]["by_operator"]["Softmax"] == {"float32": layers}
    names = {node.name for node in onnx.load(path, load_external_data=False).graph.node}
    assert all(set(island["at"]) <= names for island in report["float32_islands"])


def test_half_vision_names_its_float32_islands(graphs) -> None:
    islands = inspect_path(graphs(VISION, "fp16"))["float32_islands"]
    reasons = {island["reason"]: island["groups"] for island in islands}
    blocks = CONFIG.tower.blocks - 1
    assert reasons == {
        "norm statistics": 2 * blocks + 2,
        "softmax and mask": blocks,
        "input pixel_values": 1,
        "input image_indicator": 1,
    }


def test_float32_graphs_have_no_islands(graphs) -> None:
    for index in (VISION, DECODER):
        report = inspect_path(graphs(index))
        assert report["precision"] == "float32" and report["float32_islands"] == []


def half_graph(folder: Path, nodes: list[Any], inputs: dict[str, int], weights: dict[str, int]) -> Path:
    """A graph that says it is fp16, of [4,4] weights and [rows,4] inputs of these types, with the output y."""
    half = TensorProto.FLOAT16
    stored = [helper.make_tensor(name, kind, [4, 4], [1] * 16) for name, kind in weights.items()]
    ports = [helper.make_tensor_value_info(name, kind, ["rows", 4]) for name, kind in {**inputs, "y": half}.items()]
    graph = helper.make_graph(nodes, "g", ports[:-1], ports[-1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.metadata_props.add(key="precision", value="fp16")
    onnx.save(model, folder / "g.onnx")
    return folder / "g.onnx"


def test_places_of_a_token_are_a_known_island(tmp_path: Path) -> None:
    half, single, whole = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64
    nodes = [
        helper.make_node("Cast", ["ids"], ["numbers"], to=single),
        helper.make_node("ReduceMax", ["numbers"], ["highest"], keepdims=1),
        helper.make_node("Equal", ["numbers", "highest"], ["ends"]),
        helper.make_node("Where", ["ends", "x", "w"], ["y"]),
    ]
    report = inspect_path(half_graph(tmp_path, nodes, {"ids": whole, "x": half}, {"w": half}), shapes={"rows": 4})
    assert [(island["reason"], island["nodes"]) for island in report["float32_islands"]] == [("token numbers", 3)]


def test_interpolated_tables_and_counts_of_a_mask_are_known_islands(tmp_path: Path) -> None:
    half, single, whole = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64
    count = [
        helper.make_node("Cast", ["mask"], ["m"], to=single),
        helper.make_node("ReduceSum", ["m"], ["s"], keepdims=1),
        helper.make_node("Cast", ["s"], ["length"], to=whole),
    ]
    look_up = [
        helper.make_node("Gather", ["rows32", "length"], ["r"]),
        helper.make_node("Gather", ["columns32", "length"], ["c"]),
        helper.make_node("Mul", ["r", "c"], ["rc"]),
        helper.make_node("Cast", ["rc"], ["w"], to=half),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    # A table that was left in float32 and is only looked up, or scaled, has no such reason.
    alone = [look_up[0], helper.make_node("Cast", ["r"], ["w"], to=half), look_up[-1]]
    scaled = [look_up[0], helper.make_node("Mul", ["r", "columns32"], ["rc"]), *look_up[-2:]]
    inputs, tables = {"mask": whole, "x": half}, {"rows32": single, "columns32": single}
    for nodes, reason, nodes_of in ((look_up, "interpolation", 4), (alone, "other", 2), (scaled, "other", 3)):
        report = inspect_path(half_graph(tmp_path, [*count, *nodes], inputs, tables), shapes={"rows": 4})
        found = {island["reason"]: island["nodes"] for island in report["float32_islands"]}
        assert found == {"mask counts": 3, reason: nodes_of}


@pytest.mark.parametrize(("factor", "reason"), [(0.01, "small factor"), (0.5, "other")])
def test_a_small_factor_is_a_known_island(tmp_path: Path, factor: float, reason: str) -> None:
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=single),
        helper.make_node("Mul", ["b", "factor"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=half),
    ]
    path = half_graph(tmp_path, nodes, {"x": half}, {"w": half})
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("factor", single, [], [factor]))
    onnx.save(model, path)
    report = inspect_path(path, shapes={"rows": 3})
    assert [(island["reason"], island["nodes"]) for island in report["float32_islands"]] == [(reason, 3)]


def test_a_product_left_in_float32_is_no_known_island(tmp_path: Path) -> None:
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="good"),
        helper.make_node("Cast", ["a"], ["b"], to=single, name="up"),
        helper.make_node("MatMul", ["b", "w32"], ["c"], name="bad"),
        helper.make_node("Cast", ["c"], ["y"], to=half, name="down"),
    ]
    report = inspect_path(half_graph(tmp_path, nodes, {"x": half}, {"w": half, "w32": single}), shapes={"rows": 3})
    assert [(i["reason"], i["nodes"], i["at"]) for i in report["float32_islands"]] == [("other", 3, ["up"])]
    assert report["cost"]["macs"] == 2 * 3 * 4 * 4


def test_approximated_prompt_in_half_keeps_its_products_in_float32(tmp_path: Path) -> None:
    rows, width = 6, 8

    def forward(weights, inputs):
        x = inputs["hidden"]
        return (approximated_prompt(x, x + 1, weights["keys"], weights["values"]),)

    port = ("graph", ("batch", "sequence", width))
    component = Component(
        "model",
        (Port("hidden", *port),),
        (Port("out", *port),),
        {"keys": Weight((rows, width)), "values": Weight((rows, width))},
        forward,
        {"batch": (1, 2), "sequence": (1, 9)},
    )
    report = inspect_path(write(component, "fp16", tmp_path), shapes={"batch": 2, "sequence": 7})
    (island,) = report["float32_islands"]
    assert island["reason"] == "memory products" and island["operators"]["ReduceMax"] == 1
    assert island["at"] == [report["memory"][0]["name"]]
    assert report["memory"][0]["table_rows"] == rows and report["memory"][0]["visual_rows"] is None
    assert report["cost"]["memory"]["table_macs"] == report["cost"]["macs"] == 2 * 2 * 7 * rows * width
    assert report["cost"]["memory"]["visual_macs"] == 0 and report["cost"]["memory"]["percent"] is None
    # Lowering writes the operator out, whose nodes then have no names.
    model = onnx.inliner.inline_local_functions(onnx.load(tmp_path / report["file"]))
    onnx.save(model, tmp_path / "inlined.onnx")
    (inlined,) = inspect_path(tmp_path / "inlined.onnx")["float32_islands"]
    assert {**inlined, "at": island["at"]} == island and inlined["at"] == ["activations32__1"]


def test_deep_prompts_at_the_sites_of_apt_would_cost_what_the_paper_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ViLT-B/32 with 200 tokens at 12 sites, 40 text and 201 image rows (spec 9): 5.14 G against 0.91 G.

    The paper's 0.91 G hold the making of the keys, 2 r p d a site, and a product with the row maximum, d a row, which
    are no products of the graph.
    """
    tokens, width, rows, sites = 200, 768, 241, 12
    nodes = [
        helper.make_node("ApproximatedPrompt", [f"x{i}", "y", "keys", "values"], [f"x{i + 1}"], domain="memvp")
        for i in range(sites)
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", rows, width]) for name in ("x0", "y")]
    inner = [
        helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["batch", rows, width]) for i in range(1, sites + 1)
    ]
    tables = [onnx.numpy_helper.from_array(np.zeros((tokens, width), np.float32), name) for name in ("keys", "values")]
    graph = helper.make_graph(nodes, "g", ports, inner[-1:], tables, value_info=inner[:-1])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("memvp", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "sites.onnx")
    cost = inspect_path(tmp_path / "sites.onnx")["cost"]
    deep = sites * (3 * tokens * width**2 + 2 * rows * tokens * width)
    assert cost["deep_prompt"]["macs"] == deep
    assert round(deep / 1e9, 2) == 5.14
    added = cost["memory"]["macs"]
    keys, weighted = 2 * 4 * tokens * width * sites, rows * width * sites
    assert added == 2 * rows * tokens * width * sites and round((added + keys + weighted) / 1e9, 2) == 0.91
    assert cost["deep_prompt"]["saved_percent"] == pytest.approx(100 * (1 - added / deep))
    doubled = inspect_path(tmp_path / "sites.onnx", shapes={"batch": 2})
    assert doubled["cost"]["deep_prompt"]["macs"] == 2 * deep
    costs = costs_of(doubled, beside_deep_prompts=True)
    assert costs == [{"graph": "sites.onnx", "precision": "float32", **doubled["cost"]}]
    print_flops("sites.onnx", costs, beside_deep_prompts=False)
    print_flops("sites.onnx", costs, beside_deep_prompts=True)
    alone, beside = capsys.readouterr().out.split("sites.onnx", 1)[1].split("deep prompts", 1)
    assert f"{2 * added / 1e9:.3f}" in alone and f"{2 * deep / 1e9:.3f}" not in alone
    assert f"{2 * deep / 1e9:.3f}" in beside and f"{cost['deep_prompt']['saved_percent']:.2f} %" in beside


def test_flops_are_of_graphs_and_deep_prompts_stand_in_for_those_of_apt(graphs) -> None:
    report = inspect_path(graphs(DECODER))
    (cost,) = costs_of(report)
    assert cost["macs"] == report["cost"]["macs"] > cost["memory"]["macs"] > 0
    with pytest.raises(InputError, match=r"no prompts of APT: there is nothing to compare"):
        costs_of(report, beside_deep_prompts=True)
    with pytest.raises(InputError, match=r"is an engine: MACs are counted in graphs"):
        costs_of({"kind": "engine", "path": "model.fp16.engine"})


def test_weights_are_counted_without_their_file(graphs) -> None:
    path = graphs(DECODER, "fp16")
    component = memvp_llama.components(CONFIG)[DECODER]
    expected = sum(np.prod(weight.shape) for weight in component.weights.values())
    data = path.with_name(path.name + ".data")
    hidden = data.rename(data.with_suffix(".away"))
    try:
        report = inspect_path(path)
        weights = report["weights"]
    finally:
        hidden.rename(data)
    assert report["faults"] == [f"its weights {data.name} are not beside it"] and inspect_path(path)["faults"] == []
    assert 0 <= weights["bytes_by_dtype"]["float16"] - 2 * expected < 100
    assert weights["external_files"] == [{"name": data.name, "bytes": None}]
    assert weights["largest"][0]["bytes"] == 2 * CONFIG.dim * CONFIG.memory_rows
    assert inspect_path(path)["weights"]["external_files"][0]["bytes"] == data.stat().st_size


def make_bundle(graphs, folder: Path) -> Path:
    parts = memvp_llama.components(CONFIG)
    root = folder / "bundle"
    with new_bundle(root) as writer:
        for index in range(len(parts)):
            source = graphs(index)
            for name in (source.name, f"{source.name}.data"):
                writer.path(f"graphs/{name}").write_bytes(source.with_name(name).read_bytes())
                writer.record(f"graphs/{name}")
        writer.path("samples/golden.npz").write_bytes(b"0123")
        writer.record("samples/golden.npz")
        writer.write_manifest(
            {
                "family": "memvp-llama",
                "task": "vqa",
                "precision": "fp32",
                **{key: {} for key in ("options", "config", "preprocessing")},
                "tokenizer": {"type": "sentencepiece", "file": "tokenizer.model"},
                "generation": {"max_new_tokens": 1, "max_sequence": CONFIG.max_sequence},
                "labels": None,
                "engines": [],
                "samples": None,
                "sources": [],
                "memory": {"visual_rows": CONFIG.tower.rows, "table_rows": CONFIG.memory_rows, "scale": 0.1},
                "components": {
                    part.name: {
                        "inputs": [{"name": p.name, "dtype": p.dtype, "dims": list(p.dims)} for p in part.inputs],
                        "outputs": [],
                        "ranges": {name: list(limits) for name, limits in part.ranges.items()},
                        "cache": None,
                        "graphs": {"fp32": {"file": f"graphs/{part.name}.onnx", "opset": 20}},
                    }
                    for part in parts
                },
            }
        )
    return root


def test_a_bundle_is_reported_whole(graphs, tmp_path: Path) -> None:
    root = make_bundle(graphs, tmp_path)
    report = inspect_path(root, shapes={"batch": 2})
    assert json.loads(json.dumps(report)) == report
    assert (report["kind"], report["family"], report["precision"]) == ("bundle", "memvp-llama", "fp32")
    assert report["memory"]["table_rows"] == CONFIG.memory_rows
    assert report["bytes"] == sum(report["bytes_by_folder"].values())
    assert report["bytes_by_folder"]["samples"] == 4 and report["sample_files"] == ["samples/golden.npz"]
    decoder = report["components"]["decoder"]
    assert decoder["ranges"]["sequence"] == [1, 512]
    assert decoder["graphs"]["fp32"]["cost"]["setting"]["batch"] == 2
    assert report["components"]["vision"]["graphs"]["fp32"]["cost"]["setting"] == {"batch": 2}
    with pytest.raises(InputError, match=r"'seq'.*batch, sequence"):
        inspect_path(root, shapes={"seq": 3})


def test_a_bundle_says_what_lengths_it_takes_and_a_default_is_one_of_them(graphs, tmp_path: Path) -> None:
    root = make_bundle(graphs, tmp_path)
    for shapes, message in (
        ({"batch": 65}, "batch is 65; vision takes whole numbers from 1 to 64"),
        ({"batch": 0}, "batch is 0; vision takes whole numbers from 1 to 64"),
        ({"sequence": 513}, "sequence is 513; decoder takes whole numbers from 1 to 512"),
    ):
        with pytest.raises(InputError, match=message):
            inspect_path(root, shapes=shapes)
    with change(root) as (writer, manifest):
        manifest["components"]["decoder"]["ranges"]["sequence"] = [1, 40]
        writer.write_manifest(manifest)
    graph = inspect_path(root)["components"]["decoder"]["graphs"]["fp32"]
    assert graph["cost"]["setting"] == {"batch": 1, "sequence": 40, "past_sequence": 0, "positions": 1}


def test_reading_loads_neither_torch_nor_tensorrt(graphs) -> None:
    code = (
        "import json, sys; from memvp_export.exporter.inspection.path_report import inspect_path;"
        "report = inspect_path(sys.argv[1]);"
        "loaded = [m for m in ('torch', 'tensorrt', 'onnxscript', 'onnx_ir', 'onnxruntime') if m in sys.modules];"
        "print(json.dumps([loaded, report]))"
    )
    done = subprocess.run([sys.executable, "-c", code, graphs(DECODER)], capture_output=True, text=True, check=True)
    loaded, report = json.loads(done.stdout)
    assert loaded == []
    # This process has traced, and so knows the operators' schemas; a bare one does not.
    assert report == inspect_path(graphs(DECODER))


def test_what_is_no_bundle_and_no_graph_is_refused(graphs, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\x00\xffnot a graph" * 50)
    empty = tmp_path / "empty.onnx"
    empty.touch()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(graphs(DECODER).read_bytes()[:5000])
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(graphs(DECODER).read_bytes().replace(b"embed_tokens", b"\xffmbed_tokens"))
    engine = tmp_path / "model.bin"
    engine.touch()
    # Reading it would wait for whoever writes to it.
    pipe = tmp_path / "pipe.engine"
    os.mkfifo(pipe)
    for path, message in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path, "is not a bundle"),
        (garbage, "is not an ONNX graph"),
        (empty, "is not an ONNX graph"),
        (cut, "is not an ONNX graph, or it is cut short"),
        (damaged, "a name that is not text"),
        (engine, "give a bundle folder, an .onnx file, or an engine or its record"),
        (pipe, "is no regular file"),
    ):
        with pytest.raises(InputError, match=message):
            inspect_path(path)
    for shapes in ({"batch": -1}, {"batch": 0}, {"past_sequence": -1}, {"sequence": 1 << 62}):
        with pytest.raises(InputError, match=f"{next(iter(shapes))} is .*; the graph takes whole numbers from"):
            inspect_path(graphs(DECODER), shapes=shapes)
