"""The model that ships with the project as engines: every precision, native and with the plugin, and what is in them.

The plugin's library takes part where it can be compiled. Everywhere else, and here too, its stand-in in Python does: it
goes the way of a folder that is carried to another machine, built there by a process that has the operator itself.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from memvp_export.examples.shapes.files import LLAMA, MODEL
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.engines.build import adopt_engines, build_engines, lower_engines
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.export import export_onnx

from ... import tensorrt_cpu
from ...plugins.fake_library import put_library

TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
WAYS = ("native", "library", "stand-in")
PARAMS = json.loads((MODEL / LLAMA / "params.json").read_text())
LAYERS, HEADS, HEAD = PARAMS["n_layers"], PARAMS["n_heads"], PARAMS["dim"] // PARAMS["n_heads"]
LARGEST_BATCH = 4


@dataclass(frozen=True)
class Engine:
    """An entered engine: its manifest entry, the record of what was read back, and the component it was made of."""

    entry: dict[str, Any]
    record: dict[str, Any]
    component: dict[str, Any]


EngineOf = Callable[[str, str, str], Engine]


@pytest.fixture(scope="module")
def demo(tensorrt_here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the shipped model, in its own precision."""
    root = tmp_path_factory.mktemp("demo") / "shapes.bundle"
    export_onnx(read_source(MODEL), root, golden=False)
    return root


@pytest.fixture(scope="module")
def engine_of(demo: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> EngineOf:
    """The engine of a component, in a precision, made in one of WAYS; made when first asked for."""
    made: dict[tuple[str, str, str], Engine] = {}

    def make(precision: str, way: str, component: str = "decoder") -> Engine:
        if (precision, way, component) not in made:
            asked = {"target": "tensorrt", "components": [component], "max_batch": LARGEST_BATCH}
            with pytest.MonkeyPatch.context() as patch:
                if way == "stand-in":
                    entries = _built_elsewhere(demo, tmp_path_factory.mktemp("carried"), patch, precision, asked)
                else:
                    if way == "library":
                        patch.setenv("MEMVP_PLUGIN", str(request.getfixturevalue("plugin_library")))
                    plugin = "off" if way == "native" else "on"
                    entries = build_engines(demo, Request(precision, plugin=plugin, **asked))
            bundle, (entry,) = Bundle.open(demo), entries
            record = json.loads(bundle.path(entry["layers"]).read_text())
            made[precision, way, component] = Engine(entry, record, bundle.manifest["components"][component])
        return made[precision, way, component]

    return make


def _built_elsewhere(
    root: Path, folder: Path, patch: pytest.MonkeyPatch, precision: str, asked: dict[str, Any]
) -> list[dict[str, Any]]:
    """Lower with a library that only says what it is, build where a class in Python is the operator, and adopt."""
    patch.setenv("MEMVP_PLUGIN", str(put_library(folder / "said.so")))
    for recipe in lower_engines(root, folder / "folder", Request(precision, plugin="on", **asked)):
        said = json.loads(tensorrt_cpu.run(Path(__file__).with_name("stand_in.py"), recipe).splitlines()[-1])
        assert said.get("plugin_layers") == LAYERS, said
    return adopt_engines(root, folder / "folder")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=TYPES)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_weights_and_ports_are_of_the_asked_type(precision: str, way: str, engine_of: EngineOf) -> None:
    decoder = engine_of(precision, way)
    engines = [decoder, engine_of(precision, "native", "vision")] if way == "native" else [decoder]
    for engine in engines:
        dtype = TYPES[precision]
        constants = [
            part
            for layer in engine.record["layers"]
            if layer["matrix"]
            for part in layer["constants"]
            if math.prod(part["dims"]) > 1
        ]
        assert len(constants) >= 4 and {part["dtype"] for part in constants} == {dtype}
        for kind in ("inputs", "outputs"):
            asked = {
                port["name"]: dtype if port["dtype"] == "graph" else port["dtype"] for port in engine.component[kind]
            }
            assert {port["name"]: port["dtype"] for port in engine.record[kind]} == asked
            assert {port["name"]: port["dtype"] for port in engine.entry[kind]} == asked


def test_every_layer_has_its_memory_lookup_and_the_plugin_all_or_none(
    precision: str, way: str, engine_of: EngineOf
) -> None:
    engine = engine_of(precision, way)
    lookups = {f"model.layers.{i}.mlp.down_proj/VisualMemoryFFN" for i in range(LAYERS)}
    plugin = [layer for layer in engine.record["layers"] if layer["plugin"]]
    named = {name for layer in engine.record["layers"] for name in layer["onnx"] if "VisualMemoryFFN" in name}
    if way == "native":
        assert engine.entry["lowering"] == "native" and engine.entry["plugin"] is None and not plugin
        assert {"/".join(name.split("/")[:2]) for name in named} == lookups
        count = 0
    else:
        assert engine.entry["lowering"] == "plugin" and engine.entry["plugin"]["operators"] == ["VisualMemoryFFN"]
        assert named == {name for layer in plugin for name in layer["onnx"]} == lookups
        # A custom layer for each lookup and profile, all in the engine's type; the library's workspace is bytes.
        assert {layer["type"] for layer in plugin} == {"custom_layer"} and len(plugin) == 2 * LAYERS
        parts = [part for layer in plugin for part in (*layer["inputs"], *layer["outputs"])]
        assert {part["dtype"] for part in parts} - {"uint8"} == {TYPES[precision]}
        count = LAYERS
    assert engine.record["plugin_layers"] == engine.record["network_plugin_layers"] == count


def test_names_shapes_and_profiles_are_those_of_the_model(precision: str, way: str, engine_of: EngineOf) -> None:
    engine = engine_of(precision, way)
    caches = [f"{i}.{kind}" for i in range(LAYERS) for kind in ("key", "value")]
    own = {"input_ids", "attention_mask", "position_ids", "logits_positions", "visual_memory"}
    assert {port["name"] for port in engine.record["inputs"]} == own | {f"past_key_values.{name}" for name in caches}
    outputs = {port["name"]: port["dims"] for port in engine.record["outputs"]}
    assert outputs.keys() == {"logits"} | {f"present.{name}" for name in caches}
    assert all(dims[1] == HEADS and dims[3] == HEAD for name, dims in outputs.items() if name != "logits")

    shapes = {profile["name"]: profile["shapes"] for profile in engine.record["profiles"]}
    assert list(shapes) == ["prefill", "decode"]
    for profile in shapes.values():
        assert {one["max"][0] for one in profile.values()} == {LARGEST_BATCH}
        for bound in ("min", "opt", "max"):
            columns = profile["past_key_values.0.key"][bound][2] + profile["input_ids"][bound][1]
            assert profile["attention_mask"][bound][1] == columns
            assert profile["past_key_values.0.key"][bound][1::2] == [HEADS, HEAD]
    assert [shapes["decode"]["input_ids"][bound][1] for bound in ("min", "opt", "max")] == [1, 1, 1]
    columns = engine.component["ranges"]["past_sequence"][1] + 1
    assert shapes["prefill"]["input_ids"]["max"][1] == columns // 2
    assert {profile["attention_mask"]["max"][1] for profile in shapes.values()} == {columns}
    assert shapes["decode"]["past_key_values.0.key"]["min"][2] == 0


def test_a_decode_step_gives_back_new_columns_and_copies_no_cache(
    precision: str, way: str, engine_of: EngineOf
) -> None:
    engine = engine_of(precision, way)
    assert engine.entry["cache"]["kind"] == "delta"
    present = {port["name"]: port["dims"] for port in engine.entry["outputs"] if port["name"].startswith("present.")}
    assert {dims[2] for dims in present.values()} == {"sequence"}
    # In the second profile nothing but attention itself reads the past, and each past is read by one layer.
    readers: dict[str, list[list[str]]] = {}
    for layer in engine.record["layers"]:
        for name in {part["name"] for part in layer["inputs"]}:
            if name.startswith("past_key_values.") and name.endswith("[profile 1]"):
                readers.setdefault(name, []).append(layer["onnx"])
    assert len(readers) == 2 * LAYERS
    for nodes in readers.values():
        assert len(nodes) == 1 and any("Softmax" in node for node in nodes[0]), readers


def test_all_of_them_lie_in_one_bundle_side_by_side(demo: Path, engine_of: EngineOf) -> None:
    for precision in TYPES:
        engine_of(precision, "native", "vision")
        for way in ("native", "stand-in"):
            engine_of(precision, way)
    bundle = Bundle.open(demo, verify=True)
    entered = {(entry["component"], entry["precision"], entry["lowering"]) for entry in bundle.manifest["engines"]}
    assert entered == {
        (component, precision, lowering)
        for component, lowering in (("vision", "native"), ("decoder", "native"), ("decoder", "plugin"))
        for precision in TYPES
    }
    assert len(bundle.manifest["engines"]) == 9
