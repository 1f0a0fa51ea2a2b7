"""Engines of APT-ViLT, built for real without a GPU, of the task with two images: what is in them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from memvp_export import export_onnx, read_source
from memvp_export.examples.random_vilt import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines.build import build_engines, plan_engines
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.errors import InputError

TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
SIZES = replace(PRESETS["odd"], blocks=2)


@pytest.fixture(scope="module")
def root(tensorrt_here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vilt")
    write_source(folder, SIZES, "nlvr2")
    return export_onnx(read_source(folder), folder / "bundle", "fp32", golden=False).root


@pytest.mark.parametrize("precision", TYPES)
def test_an_engine_is_what_was_asked_for(root: Path, precision: str) -> None:
    build_engines(root, Request(target="tensorrt", precision=precision, max_batch=4))
    bundle = Bundle.open(root, verify=True)
    (entry,) = (one for one in bundle.manifest["engines"] if one["precision"] == precision)
    built = json.loads(bundle.path(entry["layers"]).read_text())
    weights = {
        part["dtype"]
        for layer in built["layers"]
        if layer["type"] == "gemm"
        for part in layer["constants"]
        if math.prod(part["dims"]) > SIZES.dim**2
    }
    assert weights == {TYPES[precision]}
    assert not any("custom" in layer["type"] or "lugin" in layer["type"] for layer in built["layers"])
    asked = bundle.manifest["components"]["model"]
    for kind in ("inputs", "outputs"):
        assert {port["name"]: port["dtype"] for port in built[kind]} == {p["name"]: p["dtype"] for p in asked[kind]}
    (profile,) = entry["profiles"]
    assert profile["shapes"]["pixel_mask_2"]["max"] == [4, 64, 96]
    assert [profile["shapes"]["input_ids"][point] for point in ("min", "max")] == [[1, 2], [4, SIZES.text_length]]
    sites = {name for layer in built["layers"] for name in layer["onnx"] if "ApproximatedPrompt" in name}
    assert {name.split(".")[2] for name in sites} == {"0", "1"}


def test_the_plugin_which_has_no_kernel_for_its_lookups_is_not_asked_for_in_vain(root: Path) -> None:
    with pytest.raises(InputError, match="changes nothing here: the plugin has no kernel for ApproximatedPrompt"):
        plan_engines(root, Request(target="tensorrt", plugin="on"))
    plan = plan_engines(root, Request(target="tensorrt"))
    assert plan["components"][0]["lowering"] == "native" and plan["cache"] is None
