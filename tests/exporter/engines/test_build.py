"""Engines of a bundle, built for real without a GPU: what is in them, and what is entered."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines import entering
from memvp_export.exporter.engines.build import build_engines, plan_engines
from memvp_export.exporter.engines.host_code import holds_only
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.errors import VerdictError
from memvp_export.exporter.kv_cache import KVCache
from memvp_export.exporter.progress import Progress

from .bundles import contents, copied, entry, record

TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
EngineOf = Callable[[str], Bundle]


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


def test_an_engine_that_is_not_what_was_asked_for_is_not_entered(
    engines_of: EngineOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(engines_of("fp16"), tmp_path / "bundle")
    before = contents(root)
    monkeypatch.setattr(entering, "verdict", lambda recipe, record: ["it is wrong", "and large"])
    with pytest.raises(VerdictError, match=r"vision is not what was asked for:\n- it is wrong\n- and large"):
        build_engines(root, Request(target="tensorrt"))
    assert contents(root) == before
