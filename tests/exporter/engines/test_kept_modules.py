"""Engines some of whose modules stay in float32, and the graphs that are traced for them."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from memvp_export.exporter.bundle import Bundle, BundleWriter
from memvp_export.exporter.engines.build import build_engines, lower_engines, plan_engines
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.progress import Progress

from .bundles import contents, copied

# Graphs of these and of no others are traced by other tests too.
UP, DOWN = "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"


def test_named_modules_stay_float32(
    tensorrt_here: None,
    bundle_of: Callable[[str], Path],
    plugin_library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEMVP_PLUGIN", str(plugin_library))
    root = copied(Bundle.open(bundle_of("fp32")), tmp_path / "bundle")
    asked = Request("fp16", "tensorrt", ["decoder"], max_batch=2, max_seq=64, keep_fp32=[DOWN])
    assert plan_engines(root, asked)["components"][0]["keep_fp32"] == [DOWN]
    (native,) = build_engines(root, asked)
    progress = Progress()
    # Without patterns the bundle's graph is taken as it is.
    (plugin,) = build_engines(root, replace(asked, plugin="on", keep_fp32=()), progress)
    assert not [stage for stage in progress.stages if "trace" in stage.name or "write" in stage.name]
    for made in (native, plugin):
        assert made["keep_fp32"] == [DOWN]
        built = json.loads((root / made["layers"]).read_text())
        products = {
            node: {part["dtype"] for part in (*layer["constants"], *layer["inputs"]) if math.prod(part["dims"]) != 1}
            for layer in built["layers"]
            for node in layer["onnx"]
            if node.endswith((".down_proj/MatMul", "/VisualMemoryFFN/visual_scores")) or layer["plugin"]
        }
        assert {"float32" in types for node, types in products.items() if node.startswith(DOWN)} == {True}
        assert {"float32" in types for node, types in products.items() if not node.startswith(DOWN)} == {False}


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
    asked = Request("fp16", "tensorrt", keep_fp32=["adapter_proj.fc1", DOWN])
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
        lower_engines(root, tmp_path / "second", replace(asked, keep_fp32=["visual.conv1", "adapter_proj.*", UP, DOWN]))
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
