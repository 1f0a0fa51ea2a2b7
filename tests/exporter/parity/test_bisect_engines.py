"""Bisecting engines names the first node whose result in TensorRT leaves the tolerance, and nothing else."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from memvp_export.exporter.bundle import Bundle, change
from memvp_export.exporter.engines import session as session_module
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.models.component import Component
from memvp_export.exporter.parity import bisect as bisect_module
from memvp_export.exporter.parity import bisect_layers, bisect_probe, bisect_repair, engine_probe
from memvp_export.exporter.parity.bisect import bisect
from memvp_export.exporter.parity.bisect_layers import layers_of
from memvp_export.exporter.parity.bisect_probe import GraphPair
from memvp_export.exporter.parity.bisect_text import lines

from ..engines.fake_bundle import with_engines
from ..engines.fake_tensorrt import HERE, VERSION, FakeRuntime

MODULE = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def root(bundle_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_engines(bundle_of("fp16"), tmp_path_factory.mktemp("engines"), "fp16")


@pytest.fixture
def runtime(bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """The machine; the float32 graphs that would be traced again are those of the same source's bundle."""

    def write(task: object, component: Component, folder: Path) -> Path:
        for file in (name := f"{component.name}.onnx", f"{name}.data"):
            shutil.copyfile(bundle_of("fp32") / "graphs" / file, folder / file)
        return folder / name

    made = FakeRuntime()
    monkeypatch.setattr(bisect_module, "_write_twin", write)
    monkeypatch.setattr(bisect_module, "process_runtime", lambda: made)
    monkeypatch.setattr(session_module, "process_runtime", lambda: made)
    return made


def read_graph(root: Path, component: str) -> onnx.ModelProto:
    return onnx.load(root / f"graphs/{component}.onnx", load_external_data=False)


def pair_of(root: Path, twin: Path, component: str) -> GraphPair:
    return GraphPair.read(*(folder / f"graphs/{component}.onnx" for folder in (root, twin)))


def builder(node: str = "none", factor: float = 1.0, builds: list[str] | None = None) -> Callable[..., Path]:
    """Stands in for a build. The engine computes its graph, with the result of one node multiplied; builds takes note
    of the components that engines are built of."""

    def build(recipe_path: Path, total: int, advance: object) -> Path:
        recipe, folder = json.loads(recipe_path.read_text()), recipe_path.parent
        if builds is not None:
            builds.append(recipe["component"])
        model = onnx.load(folder / recipe["onnx"], load_external_data=False)
        nodes = model.graph.node
        for index in [index for index, each in enumerate(nodes) if each.name == node]:
            result = nodes[index].output[0]
            nodes[index].output[0] = "raw"
            scale = onnx.numpy_helper.from_array(np.array(factor, np.float32), "factor")
            model.graph.initializer.append(scale)
            nodes.insert(index + 1, onnx.helper.make_node("CastLike", ["factor", "raw"], ["typed"]))
            nodes.insert(index + 2, onnx.helper.make_node("Mul", ["raw", "typed"], [result]))
        (folder / "built.onnx").write_bytes(model.SerializeToString())
        (folder / recipe["engine"]).write_text(json.dumps({"onnx": str(folder / "built.onnx")}))
        gpu = {"name": "NVIDIA H200", "sm": "90", "driver": "13.0"}
        record = {"tensorrt": VERSION, "flavor": "tensorrt", "gpu": gpu}
        (folder / recipe["record"]).write_text(json.dumps(record))
        return folder / str(recipe["record"])

    return build


def test_what_computes_the_same_leaves_nothing(
    root: Path, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, bundle_of: Callable[[str], Path]
) -> None:
    builds: list[str] = []
    monkeypatch.setattr(engine_probe, "build_in_child", builder(builds=builds))
    report = bisect(Bundle.open(root), backend="tensorrt")
    assert report.passed, lines(report)
    assert {part.component: part.compared for part in report.components}.keys() == {"vision", "decoder"}
    # What the layers hand on, caches too; with nothing over the tolerance there, nothing in them is looked at.
    layers = layers_of(pair_of(root, bundle_of("fp32"), "decoder"))
    assert [layer.name for layer in layers] == ["", *(f"model.layers.{i}" for i in range(3))]
    inputs = len(read_graph(root, "decoder").graph.input)
    assert report.components[1].compared == inputs + sum(len(layer.ends) for layer in layers)
    assert all({f"present.{i}.key", f"present.{i}.value"} <= {*layers[i + 1].ends} for i in range(3))
    assert builds == ["vision", "decoder"]
    assert any("TensorRT ran the nodes" in note for note in report.notes)
    assert not runtime.cuda.live


@pytest.mark.parametrize(("chunk", "trials"), [(32, 0), (9, 1)])
def test_the_node_that_tensorrt_computes_otherwise_is_named(
    root: Path,
    runtime: FakeRuntime,
    monkeypatch: pytest.MonkeyPatch,
    bundle_of: Callable[[str], Path],
    chunk: int,
    trials: int,
) -> None:
    monkeypatch.setattr(bisect_probe, "CHUNK_TENSORS", chunk)
    monkeypatch.setattr(bisect_repair, "_TRIALS", trials)
    builds: list[str] = []
    monkeypatch.setattr(engine_probe, "build_in_child", builder(f"{MODULE}/MatMul", 101, builds))
    report = bisect(Bundle.open(root), backend="tensorrt")
    vision, decoder = report.components
    assert vision.first is None and decoder.first is not None
    assert (decoder.first.node, decoder.first.module) == (f"{MODULE}/MatMul", MODULE)
    assert decoder.first.error == pytest.approx(100, rel=0.01) and decoder.first.problem == ""
    assert decoder.keep_fp32 == [MODULE]
    pair = pair_of(root, bundle_of("fp32"), "decoder")
    (layer,) = (one for one in layers_of(pair) if one.name == "model.layers.1")
    # An engine for what all layers hand on, and one for each chunk of the layer's other results; and so in each trial,
    # whose graphs have more Casts.
    inside = -(-len({*layer.values} - {*layer.ends}) // chunk)
    assert builds.count("vision") == 1
    assert builds.count("decoder") == 1 + inside if not trials else builds.count("decoder") <= 2 * (2 + inside)
    assert 1 + inside < len(pair.partners) / chunk / 2
    # What computes wrongly does so in float32 too.
    assert decoder.repaired is False and any("tried, and not enough" in line for line in lines(report))


@pytest.mark.usefixtures("runtime")
def test_a_layer_that_was_not_looked_into_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bisect_layers, "LOOKED_INTO", 0)
    monkeypatch.setattr(bisect_repair, "_TRIALS", 0)
    monkeypatch.setattr(engine_probe, "build_in_child", builder(f"{MODULE}/MatMul", 101))
    found = bisect(Bundle.open(root), backend="tensorrt").to_dict()
    assert [part["left"] for part in found["components"]] == [[], ["model.layers.1"]]
    assert "decoder: an error enters at model.layers.1 too: not looked into" in found["notes"]


@pytest.mark.usefixtures("runtime")
def test_without_a_gpu_the_preflight_ends_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = FakeRuntime(replace(HERE, gpu=None, why_no_gpu="no driver."))
    monkeypatch.setattr(bisect_module, "process_runtime", lambda: bare)
    with pytest.raises(EnvironmentLack, match=r"no GPU can be used here: no driver\."):
        bisect(Bundle.open(root), backend="tensorrt")
    assert not list(root.parent.glob(".*partial*"))


def test_a_probe_holds_what_it_hands_out_and_reads_no_more(root: Path) -> None:
    bundle = Bundle.open(root)
    model = onnx.load(bundle.graph("decoder"), load_external_data=False)
    first = next(node for node in model.graph.node if node.name == "model.layers.0.self_attn.q_proj/MatMul")
    graph = engine_probe.probe_graph(model, list(first.output)).graph
    assert [value.name for value in graph.input] == ["input_ids"]
    assert [value.name for value in graph.output] == list(first.output)
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    whole = engine_probe.probe_graph(model, ["logits"])
    assert not whole.functions and all(node.domain == "" for node in whole.graph.node)


def test_engines_that_do_not_follow_their_graphs_types_are_not_bisected(
    root: Path, runtime: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "environment", lambda entry: HERE)
    copy = Path(shutil.copytree(root, tmp_path / "bundle"))
    with change(copy) as (writer, manifest):
        for entry in manifest["engines"]:
            entry["target"] = "tensorrt-8"
        writer.write_manifest(manifest)
    with pytest.raises(InputError, match=r"engines for tensorrt-8 cannot be bisected: .*--backend onnxruntime"):
        bisect(Bundle.open(copy), backend="tensorrt")
