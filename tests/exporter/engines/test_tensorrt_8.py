"""Engines for TensorRT 8, whose module is a strict stand-in: what goes to the other machine builds and comes back."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines import build_engine
from memvp_export.exporter.engines.build import adopt_engines, build_engines, lower_engines
from memvp_export.exporter.engines.readback import verdict
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.engines.tensorrt_module import activation_bytes, give_activations
from memvp_export.exporter.errors import EnvironmentLack, InputError

from ...plugins.fake_library import put_library
from .layers8 import write_layers
from .tensorrt8_host import make_host
from .test_build_engine import write_recipe


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of that machine."""
    return make_host(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def lowered(bundle_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder for that machine; made once for each request."""
    made: dict[Any, Path] = {}

    def lower(**asked: Any) -> Path:
        key = str(asked)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("lowered") / "carried"
            request = Request(precision="fp16", target="tensorrt-8", max_batch=2, **asked)
            # A plugin library that was built on this machine would be carried along.
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv("MEMVP_PLUGIN", raising=False)
                patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("no-cache")))
                recipes = lower_engines(bundle_of("fp16"), made[key], request)
            for recipe in recipes:
                write_layers(recipe)
        return made[key]

    return lower


@pytest.fixture
def carried(lowered: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of such a folder."""

    def copy(**asked: Any) -> Path:
        return Path(shutil.copytree(lowered(**asked), tmp_path / "carried"))

    return copy


def built(folder: Path, host: dict[str, str], *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command: Sequence[str | Path] = ["sh", folder / "build.sh", *words]
    return subprocess.run(command, env={**host, **more}, capture_output=True, text=True)


def said(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(done.stdout.splitlines()[-1])


def plan(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.engine").read_text())


def test_a_folder_is_built_there_and_comes_back(
    carried: Callable[..., Path], host: dict[str, str], bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, root = carried(), tmp_path / "bundle"
    shutil.copytree(bundle_of("fp16"), root)
    assert "module tensorrt from 8.5 to below 8.7" in (folder / "README.md").read_text()
    done = built(folder, host)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = {entry["component"]: entry for entry in adopt_engines(root, folder)}
    assert entries.keys() == {"vision", "decoder"}
    decoder = entries["decoder"]
    assert decoder["file"] == "engines/tensorrt-8-8.5.3.1-sm89/decoder.fp16.engine"
    assert (decoder["target"], decoder["tensorrt"], decoder["cache"]["kind"]) == ("tensorrt-8", "8.5.3.1", "delta")
    assert decoder["activation"] == 4096
    assert {port["dtype"] for port in decoder["inputs"]} == {"int32", "float16"}
    assert Bundle.open(root, verify=True).manifest["engines"] == list(entries.values())


def test_the_network_is_built_as_its_graph_is_typed(carried: Callable[..., Path], host: dict[str, str]) -> None:
    folder = carried()
    assert built(folder, host).returncode == 0
    for name in ("vision.fp16", "decoder.fp16"):
        made = plan(folder, name)
        assert made["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
        assert made["sources"] == ["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"]
        floats = [layer for layer in made["layers"] if {*layer["dtypes"]} & {"float32", "float16"}]
        wide = {layer["name"]: layer["computed"] for layer in floats if "float32" in layer["dtypes"]}
        assert {*wide.values()} == {"FLOAT"} and any(name.startswith("(Unnamed") for name in wide)
        assert any("Softmax" in name for name in wide) and any("ReduceMean" in name for name in wide)
        products = [layer for layer in floats if layer["type"] == "MATRIX_MULTIPLY"]
        assert len(products) > 10 and {layer["computed"] for layer in products} == {"HALF"}
    assert [sorted(shapes["input_ids"][2]) for shapes in plan(folder, "decoder.fp16")["profiles"]] == [[2, 256], [1, 2]]
    record = json.loads((folder / "decoder.fp16.json").read_text())
    recipe = json.loads((folder / "decoder.fp16.recipe.json").read_text())
    assert record["pinned"] == {kind: len(recipe["pinned"][kind]) for kind in ("float32", "float16")}
    assert record["pinned"]["float32"] > 50 and record["pinned"]["float16"] > 30


def test_nodes_whose_types_the_network_did_not_keep_are_a_failure(
    carried: Callable[..., Path], host: dict[str, str]
) -> None:
    folder = carried(components=["vision"])
    recipe = json.loads((folder / "vision.fp16.recipe.json").read_text())
    deaf = [recipe["pinned"]["float32"][0], *recipe["pinned"]["float16"][:2]]
    assert built(folder, host, DEAF=",".join(deaf), HIDE="1").returncode == 0
    record = json.loads((folder / "vision.fp16.json").read_text())
    asked = {kind: len(recipe["pinned"][kind]) for kind in ("float32", "float16")}
    found = {"float32": asked["float32"] - 1, "float16": asked["float16"] - 2}
    assert record["pinned"] == found
    assert verdict(recipe, record) == [f"types were to be kept in {asked} nodes, and the network kept them in {found}."]


def test_float32_engines_allow_no_other_type(host: dict[str, str], tmp_path: Path) -> None:
    pins: dict[str, list[str]] = {"float32": [], "float16": [], "constants": []}
    recipe = write_recipe(tmp_path, target="tensorrt-8", pinned=pins)
    layers = write_layers(recipe)
    words = [sys.executable, "-m", build_engine.__name__, "build", recipe]
    done = subprocess.run(words, env=host, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    made = plan(tmp_path, "small")
    assert made["flags"] == [] and {layer["computed"] for layer in made["layers"]} == {"FLOAT"}
    assert len(made["layers"]) == len(layers) == 2


def test_options_and_caches_reach_the_builder(carried: Callable[..., Path], host: dict[str, str]) -> None:
    folder = carried(cache="concat", components=["decoder"], workspace=1 << 24, timing_cache=Path("timing"))
    done = built(folder, host)
    assert done.returncode == 0, done.stdout
    made = plan(folder, "decoder.fp16")
    assert made["pools"] == {"WORKSPACE": 1 << 24} and (folder / "timing").read_bytes() == b"timed"
    (present, *_) = [port for port in made["ports"]["outputs"] if port["name"] == "present.0.key"]
    assert "past_sequence + sequence" in present["dims"]


def test_a_timing_cache_that_cannot_be_read_is_a_lack(host: dict[str, str], tmp_path: Path) -> None:
    pins: dict[str, list[str]] = {"float32": [], "float16": [], "constants": []}
    recipe = write_recipe(tmp_path, target="tensorrt-8", pinned=pins, timing_cache="timing")
    write_layers(recipe)
    (tmp_path / "timing").mkdir()
    words = [sys.executable, "-m", build_engine.__name__, "build", recipe]
    done = subprocess.run(words, env=host, capture_output=True, text=True)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert said(done) == {"error": f"{tmp_path / 'timing'}: Is a directory", "kind": "environment"}


def test_plugin_layers_are_counted_and_pinned(carried: Callable[..., Path], host: dict[str, str]) -> None:
    folder = carried(plugin="on", components=["decoder"])
    without = built(folder, host)
    assert without.returncode == 3 and "no creator of VisualMemoryFFN" in said(without)["error"]
    put_library(folder / "foreign.so", "another_function")
    useless = built(folder, host, "--plugin", "foreign.so")
    assert useless.returncode == 3 and "cannot be used with TensorRT 8" in said(useless)["error"]
    (folder / "text.so").write_text("no library")
    for name, fault in (("text.so", "is no shared library"), ("none.so", "does not exist"), ("", "is no file")):
        refused = built(folder, host, "--plugin", name)
        assert refused.returncode == 2 and f"{name} {fault}" in said(refused)["error"]
    done = built(folder, host, REGISTERED="1")
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((folder / "decoder.fp16.plugin.json").read_text())
    assert (record["plugin_layers"], record["network_plugin_layers"]) == (3, 3)
    lookups = [layer for layer in plan(folder, "decoder.fp16.plugin")["layers"] if layer["type"] == "PLUGIN_V2"]
    assert {layer["computed"] for layer in lookups} == {"HALF"}


def test_what_tensorrt_8_hides_in_one_layer_is_taken_from_the_network(
    carried: Callable[..., Path], host: dict[str, str]
) -> None:
    folder = carried()
    assert built(folder, host, HIDE="1").returncode == 0
    for name in ("vision.fp16", "decoder.fp16"):
        recipe = json.loads((folder / f"{name}.recipe.json").read_text())
        record = json.loads((folder / f"{name}.json").read_text())
        (layer,) = record["layers"]
        assert layer["name"].startswith("{ForeignNode[") and not layer["matrix"] and layer["onnx"] == []
        assert verdict(recipe, record) == []
        for pinned in (None, {"float32": 0, "float16": 0}):
            (failure,) = verdict(recipe, {**record, "pinned": pinned})
            assert "types were to be kept" in failure


def test_a_half_engine_in_float32_is_refused(carried: Callable[..., Path], host: dict[str, str]) -> None:
    folder = carried(components=["vision"])
    assert built(folder, host).returncode == 0
    recipe = json.loads((folder / "vision.fp16.recipe.json").read_text())
    record = json.loads((folder / "vision.fp16.json").read_text())
    assert verdict(recipe, record) == []
    for layer in record["layers"]:
        for part in layer["constants"]:
            part["dtype"] = "float32"
    assert any("fp16 was asked for, and 0%" in failure for failure in verdict(recipe, record))


def test_copies_of_the_cache_are_no_failure(carried: Callable[..., Path], host: dict[str, str]) -> None:
    """Nobody has seen TensorRT 8 join attention with the past."""
    folder = carried(components=["decoder"])
    assert built(folder, host).returncode == 0
    recipe = json.loads((folder / "decoder.fp16.recipe.json").read_text())
    record = json.loads((folder / "decoder.fp16.json").read_text())
    past, *_ = [port for port in record["inputs"] if port["name"] == "past_key_values.0.key"]
    moved = {"name": "joined", "dtype": "float16", "dims": [2, 6, 10, 16]}
    copy = {"name": "copy [profile 1]", "type": "Reformat", "inputs": [{**past, "name": f"{past['name']} [profile 1]"}]}
    copy |= {"outputs": [moved], "constants": [], "onnx": [], "matrix": False, "plugin": False}
    record["layers"].append(copy)
    assert verdict(recipe, record) == []
    (failure,) = verdict({**recipe, "pinned": None}, record)
    assert "copies of the cache" in failure


def test_contexts_take_memory_in_the_way_that_they_have() -> None:
    old = SimpleNamespace(device_memory=0)
    give_activations(old, 4096, 77)
    assert old.device_memory == 4096
    given: list[tuple[int, int]] = []
    give_activations(SimpleNamespace(set_device_memory=lambda *memory: given.append(memory)), 4096, 77)
    assert given == [(4096, 77)]
    assert activation_bytes(SimpleNamespace(device_memory_size=5)) == 5


def test_a_node_that_became_no_layer_cannot_be_pinned(carried: Callable[..., Path], host: dict[str, str]) -> None:
    folder = carried(components=["vision"])
    held = folder / "vision.onnx.layers.json"
    graph = json.loads(held.read_text())
    (gone, *_) = [layer for layer in graph["layers"] if layer["type"] == "SOFTMAX"]
    graph["layers"].remove(gone)
    held.write_text(json.dumps(graph))
    done = built(folder, host)
    assert done.returncode == 1 and gone["name"] in said(done)["error"] and not (folder / "vision.fp16.engine").exists()


def test_the_parsers_words_come_with_the_nodes_number(carried: Callable[..., Path], host: dict[str, str]) -> None:
    folder = carried(plugin="on", components=["decoder"])
    recipe = folder / "decoder.fp16.plugin.recipe.json"
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"plugin": None}))
    done = built(folder, host)
    assert done.returncode == 2 and "node 3 in the graph's order: Plugin not found" in said(done)["error"]


def test_an_engine_runs_on_integers_of_64_bits(carried: Callable[..., Path], host: dict[str, str]) -> None:
    folder = carried(components=["decoder"])
    assert built(folder, host).returncode == 0
    (folder / "in").mkdir()
    sizes = {"batch": 2, "sequence": 1, "past_sequence": 3, "positions": 1}
    for port in json.loads((folder / "decoder.fp16.recipe.json").read_text())["inputs"]:
        shape = [dim if isinstance(dim, int) else sum(sizes[term] for term in dim.split(" + ")) for dim in port["dims"]]
        kind = np.int64 if port["dtype"] == "int32" else port["dtype"]
        np.save(folder / "in" / f"{port['name']}.npy", np.ones(shape, kind))
    command = [host["PYTHON"], "-m", "memvp_engine.build_engine", "run", "decoder.fp16.engine"]
    words = ["--inputs", "in", "--outputs", "out"]
    done = subprocess.run([*command, *words], cwd=folder, env=host, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said(done)["profile"] == 1
    assert np.load(folder / "out" / "logits.npy").shape == (2, 1, 150)
    np.save(folder / "in" / "input_ids.npy", np.full((2, 1), 1 << 40))
    done = subprocess.run([*command, *words], cwd=folder, env=host, capture_output=True, text=True)
    assert done.returncode == 2 and "beyond 32 bits" in said(done)["error"]


def test_what_tensorrt_8_has_not_is_said_before_anything_is_written(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    for asked, words in (
        ({"precision": "bf16"}, "built in fp32, fp16 here, not in bf16"),
        ({"cache": "in_place"}, "caches of kind delta or concat, not in_place"),
        ({"builder_effort": 3}, r"no builder effort: TensorRT 8\.5 has none"),
        ({"embed_plugin": True, "plugin": "on"}, r"no embed plugin: TensorRT 8\.5 has none"),
    ):
        with pytest.raises(InputError, match=words):
            lower_engines(bundle_of("fp16"), tmp_path / "carried", Request(target="tensorrt-8", **asked))
    assert not (tmp_path / "carried").exists()


@pytest.mark.parametrize("version", ["8.4.3", "11.4.0"])
def test_another_tensorrt_does_not_build_them(
    version: str, bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(f"__version__ = '{version}'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EnvironmentLack, match=rf"tensorrt {version} is not known .*from 8\.5 to below 8\.7.*JetPack 5"):
        build_engines(bundle_of("fp16"), Request(target="tensorrt-8", components=["vision"]))
    assert Bundle.open(bundle_of("fp16")).manifest["engines"] == []
