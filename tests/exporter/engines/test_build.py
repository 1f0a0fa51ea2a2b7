"""Engines of a bundle, built for real without a GPU: what is in them, what is entered, and what is refused."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.bundle import Bundle, BundleWriter, sha256_file
from memvp_export.exporter.engines import build as building
from memvp_export.exporter.engines import entering, request
from memvp_export.exporter.engines.build import adopt_engines, build_engines, lower_engines, plan_engines
from memvp_export.exporter.engines.child import build_in_child
from memvp_export.exporter.engines.host_code import holds_only
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.errors import EnvironmentLack, InputError, VerdictError
from memvp_export.exporter.kv_cache import KVCache
from memvp_export.exporter.progress import Progress

from ...plugins.fake_library import put_library

TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
DATA = "graphs/decoder.onnx.data"
EngineOf = Callable[[str], Bundle]


def entry(bundle: Bundle, component: str) -> dict[str, Any]:
    (found,) = [one for one in bundle.manifest["engines"] if one["component"] == component]
    return found


def record(bundle: Bundle, component: str) -> dict[str, Any]:
    return json.loads(bundle.path(entry(bundle, component)["layers"]).read_text())


def copied(bundle: Bundle, target: Path) -> Path:
    shutil.copytree(bundle.root, target)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_engines_are_what_was_asked_for(precision: str, engines_of: EngineOf) -> None:
    bundle = engines_of(precision)
    bundle.verify()
    dtype = TYPES[precision]
    for component in ("vision", "decoder"):
        built = record(bundle, component)
        weights = [
            part
            for layer in built["layers"]
            if layer["type"] == "gemm"
            for part in layer["constants"]
            if math.prod(part["dims"]) > 1
        ]
        assert len(weights) > 2 and {part["dtype"] for part in weights} == {dtype}
        assert not any("custom" in layer["type"] or "lugin" in layer["type"] for layer in built["layers"])
        asked, found = bundle.manifest["components"][component], entry(bundle, component)
        for kind in ("inputs", "outputs"):
            names = {port["name"]: dtype if port["dtype"] == "graph" else port["dtype"] for port in asked[kind]}
            assert {port["name"]: port["dtype"] for port in built[kind]} == names
            assert {port["name"]: port["dtype"] for port in found[kind]} == names
    sites = {name for layer in built["layers"] for name in layer["onnx"] if "VisualMemoryFFN" in name}
    assert {name.split(".")[2] for name in sites} == {"0", "1", "2"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_decoder_has_a_prefill_and_a_decode_profile_and_copies_no_cache_at_a_step(
    precision: str, engines_of: EngineOf
) -> None:
    bundle = engines_of(precision)
    decoder, built = entry(bundle, "decoder"), record(bundle, "decoder")
    shapes = {profile["name"]: profile["shapes"] for profile in built["profiles"]}
    assert list(shapes) == ["prefill", "decode"]
    assert shapes["prefill"]["input_ids"]["max"] == [4, 32] and shapes["prefill"]["input_ids"]["min"] == [1, 1]
    assert shapes["prefill"]["attention_mask"]["max"] == shapes["decode"]["attention_mask"]["max"] == [4, 64]
    assert shapes["decode"]["input_ids"]["max"] == [4, 1]
    assert shapes["decode"]["past_key_values.0.key"]["min"] == [1, 6, 0, 16]
    assert shapes["decode"]["attention_mask"]["max"][1] == shapes["decode"]["past_key_values.0.key"]["max"][2] + 1
    # In the second profile whatever reads the past is the attention itself.
    readers = {
        layer["name"]: layer["onnx"]
        for layer in built["layers"]
        for part in layer["inputs"]
        if part["name"].startswith("past_key_values.") and part["name"].endswith("[profile 1]")
    }
    assert len(readers) >= 3
    assert all(any("MatMul" in node for node in nodes) for nodes in readers.values()), readers
    assert decoder["cache"]["kind"] == "delta"
    cache = KVCache(decoder, precision, 2)
    assert len(cache.present) == 6 and cache.inputs()["past_key_values.2.value"].shape == (2, 6, 0, 16)


def test_a_cache_in_place_is_written_where_it_lies(engines_of: EngineOf, tmp_path: Path) -> None:
    root = copied(engines_of("fp16"), tmp_path / "bundle")
    asked = Request(target="tensorrt", components=["decoder"], cache="in_place", max_batch=4, max_seq=48)
    (made,) = build_engines(root, asked)
    assert made["cache"] == {"kind": "in_place", "axis": 2, "layers": 3, "capacity": 48}
    assert made["ranges"]["sequence"] == [1, 48] and made["ranges"]["past_sequence"] == [0, 47]
    built = json.loads(Bundle.open(root, verify=True).path(made["layers"]).read_text())
    ports = {port["name"]: port["dims"] for port in (*built["inputs"], *built["outputs"])}
    assert ports["past_key_values.2.value"] == ports["present.2.value"] == [-1, 6, 48, 16]
    written = [part for layer in built["layers"] for part in layer["outputs"] if part["name"].endswith("[profile 1]")]
    buffers = {part["name"] for part in written if part["dims"] == [-1, 6, 48, 16]}
    assert buffers == {f"present.{i}.{kind} [profile 1]" for i in range(3) for kind in ("key", "value")}


@pytest.mark.parametrize(("precision", "embed"), [("fp32", False), ("fp16", True), ("bf16", False)])
def test_the_plugin_takes_every_memory_lookup(
    precision: str,
    embed: bool,
    engines_of: EngineOf,
    plugin_library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEMVP_PLUGIN", str(plugin_library))
    root = copied(engines_of(precision), tmp_path / "bundle")
    asked = Request(target="tensorrt", components=["decoder"], plugin="on", embed_plugin=embed, max_batch=4, max_seq=64)
    (made,) = build_engines(root, asked)
    assert made["file"].endswith(f"decoder.{precision}.plugin.engine") and made["lowering"] == "plugin"
    assert made["plugin"]["operators"] == ["VisualMemoryFFN"] and made["plugin"]["embedded"] is embed
    bundle = Bundle.open(root, verify=True)
    assert len(bundle.manifest["engines"]) == 3, "native engines stay beside the plugin's"
    built = json.loads(bundle.path(made["layers"]).read_text())
    lookups = [layer for layer in built["layers"] if layer["type"] == "custom_layer"]
    nodes = {node for layer in lookups for node in layer["onnx"]}
    assert nodes == {f"model.layers.{i}.mlp.down_proj/VisualMemoryFFN" for i in range(3)}
    assert {part["dtype"] for layer in lookups for part in layer["inputs"]} == {TYPES[precision]}
    assert holds_only(bundle.path(made["file"]), plugin_library) is embed
    assert (plugin_library.read_bytes() in bundle.path(made["file"]).read_bytes()) is embed


def test_an_engine_with_another_cache_that_will_be_replaced_is_named(engines_of: EngineOf) -> None:
    bundle = engines_of("fp16")
    file = entry(bundle, "decoder")["file"]
    for asked, words in (
        (Request(cache="in_place"), "the new engine, with cache in_place, replaces it"),
        (Request(single_pass=True), "the new engine, with no cache, replaces it"),
        (Request(), None),
        (Request(components=["vision"]), None),
        (Request("bf16", single_pass=True), None),
    ):
        notes = plan_engines(bundle, replace(asked, target="tensorrt"))["notes"]
        assert len(notes) == (words is not None), notes
        assert not words or (notes[0].startswith(f"{file} has cache delta: ") and notes[0].endswith(words))


def test_building_again_replaces_an_engine(engines_of: EngineOf, tmp_path: Path) -> None:
    root = copied(engines_of("fp16"), tmp_path / "bundle")
    before = entry(Bundle.open(root), "vision")
    build_engines(root, Request(target="tensorrt", components=["vision"], max_batch=2))
    bundle = Bundle.open(root, verify=True)
    after = entry(bundle, "vision")
    assert after["file"] == before["file"] and len(bundle.manifest["engines"]) == 2
    assert [one["profiles"][0]["shapes"]["pixel_values"]["max"][0] for one in (before, after)] == [4, 2]


def test_a_missing_precision_is_traced_first(
    tensorrt_here: None, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(bundle_of("fp32"), root)
    asked = Request(precision="fp16", target="tensorrt", components=["vision"])
    plan = plan_engines(root, asked)
    assert [(part["name"], part["traced"]) for part in plan["components"]] == [("vision", False)]
    progress = Progress()
    (made,) = build_engines(root, asked, progress)
    assert made["precision"] == "fp16" and [stage.name for stage in progress.stages][-1] == "read back vision"
    bundle = Bundle.open(root, verify=True)
    assert set(bundle.manifest["components"]["vision"]["graphs"]) == {"fp32", "fp16"}
    assert set(bundle.manifest["components"]["decoder"]["graphs"]) == {"fp32"}


def test_named_modules_stay_float32(
    tensorrt_here: None,
    bundle_of: Callable[[str], Path],
    plugin_library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEMVP_PLUGIN", str(plugin_library))
    root = copied(Bundle.open(bundle_of("fp32")), tmp_path / "bundle")
    down = "model.layers.1.mlp.down_proj"
    asked = Request("fp16", "tensorrt", ["decoder"], max_batch=2, max_seq=64, keep_fp32=[down])
    assert plan_engines(root, asked)["components"][0]["keep_fp32"] == [down]
    (native,) = build_engines(root, asked)
    progress = Progress()
    # Without patterns the bundle's graph is taken as it is.
    (plugin,) = build_engines(root, replace(asked, plugin="on", keep_fp32=()), progress)
    assert not [stage for stage in progress.stages if "trace" in stage.name or "write" in stage.name]
    for made in (native, plugin):
        assert made["keep_fp32"] == [down]
        built = json.loads((root / made["layers"]).read_text())
        products = {
            node: {part["dtype"] for part in (*layer["constants"], *layer["inputs"]) if math.prod(part["dims"]) != 1}
            for layer in built["layers"]
            for node in layer["onnx"]
            if node.endswith((".down_proj/MatMul", "/VisualMemoryFFN/visual_scores")) or layer["plugin"]
        }
        assert {"float32" in types for node, types in products.items() if node.startswith(down)} == {True}
        assert {"float32" in types for node, types in products.items() if not node.startswith(down)} == {False}


def test_a_graph_made_for_engines_is_made_again_where_it_keeps_others(
    tensorrt_here: None, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    root = copied(Bundle.open(bundle_of("fp32")), tmp_path / "bundle")
    asked = Request("fp16", "tensorrt", ["vision"], max_batch=2, keep_fp32=["adapter_proj.fc1"])
    build_engines(root, asked)
    first = Bundle.open(root).graph("vision", "fp16").read_bytes()
    other = replace(asked, keep_fp32=["visual.conv1", "adapter_proj.*"])
    before = contents(root)
    with pytest.raises(InputError, match=r"'visual.conv2' matches no module of vision; near it .*visual.conv1"):
        build_engines(root, replace(asked, keep_fp32=["visual.conv2"]))
    assert contents(root) == before
    assert [part["traced"] for part in plan_engines(root, other)["components"]] == [False]
    (made,) = build_engines(root, other)
    bundle = Bundle.open(root, verify=True)
    assert bundle.keep_fp32("vision", "fp16") == ("visual.conv1", "adapter_proj.*") == tuple(made["keep_fp32"])
    assert bundle.graph("vision", "fp16").read_bytes() != first and len(bundle.manifest["engines"]) == 1


def test_no_replaced_graph_is_listed_while_new_ones_come_in(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(Bundle.open(bundle_of("fp32")), tmp_path / "bundle")
    asked = Request("fp16", "tensorrt", keep_fp32=["adapter_proj.fc1", "lm_head"])
    lower_engines(root, tmp_path / "first", asked)
    graphs = Bundle.open(root).manifest["components"]
    assert all({*graphs[name]["graphs"]} == {"fp32", "fp16"} for name in ("vision", "decoder"))
    path = BundleWriter.path

    def interrupted(writer: BundleWriter, name: str) -> Path:
        if writer.root == root and name == "graphs/decoder.fp16.onnx":
            raise KeyboardInterrupt
        return path(writer, name)

    monkeypatch.setattr(BundleWriter, "path", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lower_engines(root, tmp_path / "second", replace(asked, keep_fp32=["adapter_proj.*", "lm_head", "*.down_proj"]))
    manifest = Bundle.open(root, verify=True).manifest
    assert all({*manifest["components"][name]["graphs"]} == {"fp32"} for name in ("vision", "decoder"))
    assert not [name for name in manifest["files"] if ".fp16." in name]


def test_an_exported_graph_is_not_replaced(bundle_of: Callable[[str], Path]) -> None:
    root = bundle_of("fp16")
    before = contents(root)
    with pytest.raises(InputError, match=r"export the source again --keep-fp32 'lm_head', or build from"):
        build_engines(root, Request("fp16", "tensorrt", ["decoder"], keep_fp32=["lm_head"]))
    with pytest.raises(InputError, match="a float32 graph keeps everything"):
        build_engines(root, Request("fp32", "tensorrt", keep_fp32=["lm_head"]))
    assert contents(root) == before


def test_an_engine_that_is_not_what_was_asked_for_is_not_entered(
    engines_of: EngineOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(engines_of("fp16"), tmp_path / "bundle")
    before = contents(root)
    monkeypatch.setattr(entering, "verdict", lambda recipe, record: ["it is wrong", "and large"])
    with pytest.raises(VerdictError, match=r"vision is not what was asked for:\n- it is wrong\n- and large"):
        build_engines(root, Request(target="tensorrt"))
    assert contents(root) == before


def test_a_folder_builds_elsewhere_and_comes_back(
    engines_of: EngineOf, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    root, folder = tmp_path / "bundle", tmp_path / "carried"
    shutil.copytree(bundle_of("fp16"), root)
    recipes = lower_engines(root, folder, Request(target="tensorrt", max_batch=2))
    assert [recipe.name for recipe in recipes] == ["vision.fp16.recipe.json", "decoder.fp16.recipe.json"]
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    with pytest.raises(InputError, match=r"no engine of .* yet"):
        adopt_engines(root, folder)
    # Somewhere else: neither the bundle nor this project is there.
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    weights = moved / "vision.onnx.data"
    sound = weights.read_bytes()
    weights.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
    done = subprocess.run(["sh", moved / "build.sh"], env=_environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "vision.onnx.data is missing or damaged" in done.stdout + done.stderr
    weights.write_bytes(sound)
    done = subprocess.run(["sh", moved / "build.sh"], env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = adopt_engines(root, moved)
    assert {made["component"] for made in entries} == {"vision", "decoder"}
    bundle = Bundle.open(root, verify=True)
    assert record(bundle, "decoder")["layers"] and (moved / "decoder.fp16.engine").is_file()

    with pytest.raises(InputError, match="is not empty"):
        lower_engines(root, moved, Request(target="tensorrt"))
    for inside in (root / "carried", root / "engines" / "carried"):
        with pytest.raises(InputError, match="lies in the bundle that it is made of"):
            lower_engines(root, inside, Request(target="tensorrt"))
        assert not inside.exists()
    held = contents(root)
    published = (root / DATA).read_bytes()
    (root / DATA).write_bytes(bytes([published[0] ^ 1]) + published[1:])
    with pytest.raises(InputError, match="is edited"):
        adopt_engines(root, moved)
    (root / DATA).write_bytes(published)
    recipe = moved / "vision.fp16.recipe.json"
    whole = recipe.read_text()
    recipe.write_text(whole.replace('"schema": 1', '"schema":  1'))
    with pytest.raises(InputError, match="from another recipe"):
        adopt_engines(root, moved)
    recipe.write_text(whole)
    engine = moved / "vision.fp16.engine"
    engine.write_bytes(engine.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="is damaged"):
        adopt_engines(root, moved)
    with pytest.raises(InputError, match=r"was made from another bundle: .* has no fp16 graph of decoder"):
        adopt_engines(bundle_of("fp32"), moved)
    changed = recipe.with_name("decoder.fp16.recipe.json")
    changed.write_text(changed.read_text().replace(Bundle.open(root).manifest["files"][DATA]["sha256"], "0" * 64))
    with pytest.raises(InputError, match="from another bundle"):
        adopt_engines(root, moved)
    assert contents(root) == held


def _environment() -> dict[str, str]:
    from ... import tensorrt_cpu

    environment = tensorrt_cpu.environment()
    assert environment is not None
    return environment | {"PYTHON": sys.executable}


def test_a_plan_names_lowerings_and_why(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    root, folder = bundle_of("fp16"), tmp_path / "carried"
    before = contents(root)
    plan = plan_engines(root, Request(target="tensorrt-rtx"), folder)
    assert (plan["target"], plan["precision"], plan["cache"]) == ("tensorrt-rtx", "fp16", "delta")
    reasons = {part["name"]: (part["lowering"], part["why"]) for part in plan["components"]}
    assert reasons["vision"] == ("native", "it has no memory lookups")
    assert reasons["decoder"] == ("native", "no measurement says that the plugin is faster here")
    assert plan["bytes"] == sum((root / f"graphs/{name}.onnx.data").stat().st_size for name in reasons)
    half, single = plan["bytes"], plan_engines(root, Request("fp32", "tensorrt", single_pass=True), folder)
    assert single["bytes"] == 2 * half and single["cache"] is None
    assert contents(root) == before and not folder.exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Request(components=["visoin"]), "no component visoin; it has vision, decoder"),
        (Request(target="tensorrt-9"), "no target 'tensorrt-9'"),
        (Request(target="tensorrt-rtx", timing_cache=Path("cache")), "tensorrt-rtx has no timing cache"),
        (Request(cache="in_place", max_seq=513), "takes 1 to 512"),
        (Request(builder_effort=6), "0 to 5"),
        (Request(max_shapes={"pixels": [1, 3, 28, 28]}), "no input is called pixels; there is pixel_values"),
        (Request(max_shapes={"pixel_values": [1, 3, 99, 28]}), "does not fit pixel_values"),
        (Request(max_batch=65), "batch = 65; this component takes 1 to 64"),
        (Request(plugin="always"), "auto, on, off"),
        (Request(embed_plugin=True), "give --plugin on too"),
        (Request(timing_cache=Path("nowhere/cache")), "nowhere does not exist"),
        (Request(timing_cache=Path("/")), "/ is a folder: give the timing cache's file"),
        (Request(components=["vision"], cache="concat"), "changes nothing here: vision is without a cache"),
        (Request(components=["vision"], single_pass=True), "changes nothing here: vision is without a cache"),
        (Request(components=["vision"], max_seq=64), "--max-seq changes nothing here: vision is without columns"),
        (Request(components=["vision"], plugin="on"), "changes nothing here: no memory is looked up in vision"),
        (Request(single_pass=True, cache="concat"), "--single-pass leaves the cache out, --cache concat"),
        (
            Request(single_pass=True, max_shapes={"past_key_values.0.key": [1, 6, 9, 16]}),
            "no input is called past_key_values.0.key",
        ),
        (Request(cache="in_place", max_seq=64, max_shapes={"past_key_values.0.key": [1, 6, 9, 16]}), "6x64x16"),
    ],
)
def test_wrong_requests_leave_the_bundle_alone(
    asked: Request, message: str, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(bundle_of("fp16"), root)
    before = contents(root)
    if asked.target is None:
        asked = Request(**{**vars(asked), "target": "tensorrt"})
    for way in (build_engines, plan_engines):
        with pytest.raises(InputError) as failure:
            way(root, asked)
        assert message in str(failure.value)
    assert contents(root) == before


@pytest.mark.parametrize("component", ["vision", "decoder"])
def test_graphs_whose_bytes_changed_are_not_built_from(
    component: str, tensorrt_here: None, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    root = copied(Bundle.open(bundle_of("fp16")), tmp_path / "bundle")
    weights = root / f"graphs/{component}.onnx.data"
    flipped = bytearray(weights.read_bytes())
    flipped[len(flipped) // 2] ^= 0x40
    weights.write_bytes(flipped)
    before, progress = contents(root), Progress()
    for asked in (Request("fp16", "tensorrt"), Request("bf16", "tensorrt")):
        for way in (
            lambda asked: build_engines(root, asked, progress),
            lambda asked: lower_engines(root, tmp_path / "carried", asked),
        ):
            with pytest.raises(InputError, match=rf"is edited: the bytes of graphs/{component}.onnx.data are not"):
                way(asked)
    assert contents(root) == before and not (tmp_path / "carried").exists()
    # What is not built from is not read.
    other = {"vision": "decoder", "decoder": "vision"}[component]
    lower_engines(root, tmp_path / "carried", Request("fp16", "tensorrt", [other]), progress)
    assert "compare digests of the graphs" in [stage.name for stage in progress.stages]


def test_what_a_graph_made_of_rounded_weights_cannot_be_is_said(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    told = Told()
    root = copied(Bundle.open(bundle_of("fp16")), tmp_path / "bundle")
    lower_engines(root, tmp_path / "full", Request("fp32", "tensorrt", ["vision"]), told)
    (note,) = told.notes
    assert note.startswith("the bundle was exported in fp16: what is fp32 here has weights that were rounded to fp16")
    folder = tmp_path / "planned"
    assert plan_engines(root, Request("fp32", "tensorrt"), folder)["notes"] == told.notes
    assert plan_engines(root, Request("fp16", "tensorrt"), folder)["notes"] == []


def test_what_is_not_installed_is_named_with_its_remedy(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(EnvironmentLack) as failure:
        build_engines(bundle_of("fp16"))
    assert all(word in str(failure.value) for word in ("export[gpu]", "export[rtx]", "--lower-only"))
    monkeypatch.delenv("MEMVP_PLUGIN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EnvironmentLack, match="memvp-export plugin build"):
        build_engines(bundle_of("fp16"), Request(target="tensorrt", plugin="on"))


def test_a_pytorch_that_is_broken_is_said(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(Bundle.open(bundle_of("fp16")), tmp_path / "bundle")
    before = contents(root)
    monkeypatch.setitem(sys.modules, "memvp_export.exporter.graphs.precision", None)
    with pytest.raises(EnvironmentLack, match=r"PyTorch is here but cannot be loaded .*precision"):
        lower_engines(root, tmp_path / "carried", Request("bf16", "tensorrt"))
    assert contents(root) == before and not (tmp_path / "carried").exists()


@pytest.mark.parametrize(
    ("version", "target"), [("8.6.1", "tensorrt-8"), ("10.13.3", "tensorrt"), ("9.3.0", "tensorrt"), (None, "tensorrt")]
)
def test_the_installed_version_settles_the_target(
    version: str | None,
    target: str,
    bundle_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text("raise AssertionError('it is not to be loaded here')\n")
    if version:
        (tmp_path / "tensorrt.dist-info").mkdir()
        (tmp_path / "tensorrt.dist-info" / "METADATA").write_text(f"Name: tensorrt\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert plan_engines(bundle_of("fp16"), folder=tmp_path / "carried")["target"] == target


def test_a_module_that_is_missing_in_the_child_ends_well(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(bundle_of("fp16"), root)
    before = contents(root)
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(EnvironmentLack, match=r"tensorrt_rtx cannot be loaded .*memvp-export\[rtx\]"):
        build_engines(root, Request(target="tensorrt-rtx"))
    assert contents(root) == before


class Told(Progress):
    """What a command says while it works."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


STUB = """
class ILogger:
    def __init__(self): pass
class LayerType: pass
"""


@pytest.mark.parametrize(
    ("module", "target", "cache", "message"),
    [
        ("raise ImportError('no such')", "tensorrt", "delta", r"cannot be loaded \(no such.*export\[gpu\]"),
        ("__version__ = '9.3.0'", "tensorrt", "delta", r"9\.3\.0 is not known to work: from 10\.3 to below 12"),
        ("__version__ = '10.13.3'", "tensorrt-8", "delta", r"10\.13\.3 is not known .*from 8\.5 to below 8\.7"),
        (
            f"__version__ = '11.4.0'\n{STUB}\ndef Builder(log): raise TypeError('no device')",
            *("tensorrt", "delta", "cannot create a builder: it needs an NVIDIA GPU .*--lower-only DIR"),
        ),
        (f"__version__ = '10.13.3'\n{STUB}", "tensorrt", "in_place", r"takes TensorRT 10\.15 .* --cache delta"),
    ],
    ids=["none that loads", "unknown", "another", "no GPU", "no caches in place"],
)
def test_what_builds_is_tried_before_any_work(
    module: str,
    target: str,
    cache: str,
    message: str,
    bundle_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    root, progress = bundle_of("fp16"), Told()
    before = contents(root)
    asked = Request("fp16", target, ["decoder"], cache=cache, max_seq=64)
    for way in (lambda: build_engines(root, asked, progress), lambda: plan_engines(root, asked)):
        with pytest.raises(EnvironmentLack, match=message):
            way()
    assert contents(root) == before and not progress.stages
    assert len(lower_engines(root, tmp_path / "carried", asked)) == 1, "that is for another machine"


def test_a_dry_run_refuses_what_a_build_would_refuse_before_it_writes(
    tensorrt_here: None, bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, asked = copied(Bundle.open(bundle_of("fp16")), tmp_path / "bundle"), Request("fp16", "tensorrt", ["vision"])
    (root / "engines").write_text("not a folder")
    with pytest.raises(EnvironmentLack, match=r"bundle/engines cannot be written: .* is a file"):
        plan_engines(root, asked)
    (root / "engines").unlink()
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentLack, match=r"file/new cannot be written: .* is a file"):
        plan_engines(root, asked, tmp_path / "file" / "new" / "carried")
    with pytest.raises(InputError, match="it has no timing cache"):
        plan_engines(root, replace(asked, timing_cache=tmp_path / "cache"))
    may_write, closed = os.access, {root}
    monkeypatch.setattr(os, "access", lambda path, mode: path not in closed and may_write(path, mode))
    for way in (plan_engines, build_engines):
        with pytest.raises(EnvironmentLack, match="bundle cannot be written: no permission"):
            way(root, asked)
    with pytest.raises(EnvironmentLack, match="bundle cannot be written: no permission"):
        plan_engines(root, replace(asked, precision="bf16"), tmp_path / "carried")
    plan_engines(root, asked, tmp_path / "carried")
    closed.clear()
    graph = root / "graphs/vision.onnx"
    assert len(plan_engines(root, asked)["components"]) == 1
    graph.write_bytes(graph.read_bytes().replace(b"visual_memory", b"visual_memorx"))
    with pytest.raises(InputError, match=r"is edited: the bytes of graphs/vision\.onnx are not"):
        plan_engines(root, asked)


def test_graphs_that_cannot_be_traced_are_missed_at_once(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for way in (plan_engines, lambda root, asked, folder: lower_engines(root, folder, asked)):
        with pytest.raises(EnvironmentLack, match=r"no such bf16 graphs.*torch is not installed.*export\[export\]"):
            way(bundle_of("fp16"), Request("bf16", "tensorrt"), tmp_path / "carried")
        way(bundle_of("fp16"), Request("fp16", "tensorrt", ["vision"]), tmp_path / "carried")


def free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    used = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(building.shutil, "disk_usage", lambda folder: used)


def needed(message: str) -> int:
    (found,) = re.findall(r"needs ([\d,]+) bytes", message)
    return int(found.replace(",", ""))


def test_a_plan_says_the_room_where_it_would_write(
    tensorrt_here: None, bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, rooms = shutil.disk_usage("/"), {tmp_path: 7 << 40}
    monkeypatch.setattr(building.shutil, "disk_usage", lambda folder: used._replace(free=rooms.get(folder, 5 << 40)))
    asked = Request(target="tensorrt")
    assert plan_engines(bundle_of("fp16"), asked)["disk_free"] == 5 << 40
    assert plan_engines(bundle_of("fp16"), asked, tmp_path / "new" / "carried")["disk_free"] == 7 << 40


def test_the_room_for_weights_that_lowering_makes_is_counted(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder = bundle_of("fp16"), tmp_path / "carried"
    asked = Request(target="tensorrt", components=["decoder"])
    (recipe,) = lower_engines(root, folder, asked)
    # Rotary tables are in it too: 512 columns of 8 angles, in two of them.
    made = (folder / "decoder.lowered.data").stat().st_size
    free_bytes(monkeypatch, 0)
    with pytest.raises(EnvironmentLack) as native:
        lower_engines(root, tmp_path / "other", asked)
    with pytest.raises(EnvironmentLack) as plugged:
        lower_engines(root, tmp_path / "other", replace(asked, plugin="on"))
    counted = needed(str(native.value)) - needed(str(plugged.value))
    assert 0.8 * made < counted <= made and recipe.is_file()
    assert needed(str(plugged.value)) > (root / DATA).stat().st_size
    assert not (tmp_path / "other").exists()


def test_engines_are_adopted_only_where_they_fit(
    engines_of: EngineOf, bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder = tmp_path / "bundle", tmp_path / "carried"
    shutil.copytree(bundle_of("fp16"), root)
    (recipe,) = lower_engines(root, folder, Request(target="tensorrt", components=["vision"]))
    build_in_child(recipe, 1, lambda done: None)
    before = contents(root)
    free_bytes(monkeypatch, 1000)
    with pytest.raises(EnvironmentLack, match="the disk is too small") as failure:
        adopt_engines(root, folder)
    assert needed(str(failure.value)) == sum(
        (folder / f"vision.fp16.{end}").stat().st_size for end in ("engine", "json")
    )
    assert contents(root) == before


@pytest.mark.parametrize("library", [None, "text.so"])
def test_the_machine_that_builds_has_its_own_plugin_library(
    library: str | None,
    tensorrt_here: None,
    plugin_library: Path,
    bundle_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MEMVP_PLUGIN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if library:
        # As of another processor.
        (tmp_path / library).write_text("not for this machine")
        monkeypatch.setenv("MEMVP_PLUGIN", str(tmp_path / library))
    root, folder = tmp_path / "bundle", tmp_path / "carried"
    shutil.copytree(bundle_of("fp16"), root)
    asked = Request(target="tensorrt", components=["decoder"], plugin="on", max_batch=2, max_seq=32)
    (recipe,) = lower_engines(root, folder, asked)
    plugin = json.loads(recipe.read_text())["plugin"]
    assert plugin["library"] is None and plugin["operators"] == ["VisualMemoryFFN"]
    assert not (folder / "plugins").exists() and "sh build.sh --plugin" in (folder / "README.md").read_text()
    alone = _build_there(folder)
    assert alone.returncode == 3 and "has no creator of VisualMemoryFFN" in alone.stdout and "--plugin" in alone.stdout
    (tmp_path / "cut.so").write_bytes(plugin_library.read_bytes()[:-1])
    cut = _build_there(folder, "--plugin", tmp_path / "cut.so")
    assert cut.returncode == 2 and "cut.so is cut short: it has" in json.loads(cut.stdout)["error"]
    built = _build_there(folder, "--plugin", plugin_library)
    assert built.returncode == 0, built.stdout
    (made,) = adopt_engines(root, folder)
    assert made["lowering"] == "plugin" and made["plugin"]["sha256"] == sha256_file(plugin_library)


def _build_there(folder: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    command = ["sh", folder / "build.sh", *words]
    return subprocess.run(command, env=_environment(), capture_output=True, text=True)


def test_a_library_for_engines_that_are_all_native_is_refused(
    tensorrt_here: None, plugin_library: Path, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "carried"
    lower_engines(bundle_of("fp16"), folder, Request(target="tensorrt", max_batch=2, max_seq=32))
    done = _build_there(folder, "--plugin", plugin_library)
    assert done.returncode == 2 and "native, and use no plugin library: leave --plugin out" in done.stdout
    assert not list(folder.glob("*.engine"))
    shutil.rmtree(folder)
    # The vision tower looks nothing up, and the decoder does.
    asked = Request(target="tensorrt", plugin="on", max_batch=2, max_seq=32)
    lower_engines(bundle_of("fp16"), folder, asked)
    done = _build_there(folder, "--plugin", plugin_library)
    assert done.returncode == 0 and len(list(folder.glob("*.engine"))) == 2, done.stdout


def test_a_library_that_is_here_goes_along(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = put_library(tmp_path / "libhere.so")
    monkeypatch.setenv("MEMVP_PLUGIN", str(library))
    lower_engines(
        bundle_of("fp16"), tmp_path / "carried", Request(target="tensorrt", components=["decoder"], plugin="on")
    )
    assert (tmp_path / "carried/plugins/libhere.so").read_bytes() == library.read_bytes()
