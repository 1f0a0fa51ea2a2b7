"""APT-METER's task with a score: what its graph answers, and what is in an engine built for real without a GPU."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from memvp_export import export_onnx, read_source, run
from memvp_export.examples.random_meter import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.request import Request
from PIL import Image

SIZES = replace(PRESETS["wide-patches"], blocks=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meter")
    write_source(folder, SIZES, "irtr")
    return export_onnx(read_source(folder), folder / "bundle", "fp16", golden=False).root


def test_a_text_and_an_image_have_a_score(root: Path, tmp_path: Path) -> None:
    for name in "ab":
        areas = np.random.default_rng(ord(name)).integers(0, 256, (4, 3, 3), np.uint8)
        Image.fromarray(areas).resize((90, 120), Image.Resampling.NEAREST).save(tmp_path / f"{name}.png")
    scores = [run(root, text, tmp_path / f"{name}.png") for text in ("ab", "xyz") for name in "ab"]
    assert len({score.text for score in scores}) == 4 and not any(score.ids for score in scores)
    assert all(np.isfinite(float(score.text)) for score in scores)


def test_a_half_engine_has_every_site_and_both_streams(tensorrt_here: None, root: Path) -> None:
    build_engines(root, Request(target="tensorrt", precision="fp16", max_batch=4))
    bundle = Bundle.open(root, verify=True)
    (entry,) = bundle.manifest["engines"]
    built = json.loads(bundle.path(entry["layers"]).read_text())
    layers = built["layers"]
    assert not any("custom" in layer["type"] or "lugin" in layer["type"] for layer in layers)
    weights = {
        part["dtype"]
        for layer in layers
        if layer["type"] == "gemm"
        for part in layer["constants"]
        if math.prod(part["dims"]) > SIZES.dim**2
    }
    assert weights == {"float16"}
    asked = bundle.manifest["components"]["model"]
    for kind in ("inputs", "outputs"):
        assert {port["name"]: port["dtype"] for port in built[kind]} == {p["name"]: p["dtype"] for p in asked[kind]}
    (profile,) = entry["profiles"]
    assert profile["shapes"]["pixel_values"]["max"] == [4, 3, 64, 64]
    assert [profile["shapes"]["input_ids"][point] for point in ("min", "max")] == [[1, 2], [4, SIZES.text_length]]
    sites = {
        name.removeprefix("node_of_").split("/")[0]
        for layer in layers
        for name in layer["onnx"]
        if "ApproximatedPrompt" in name
    }
    assert sites == {
        f"cross_modal_{stream}_layers.0.{part}.output.dense"
        for stream in ("text", "image")
        for part in ("attention", "crossattention")
    }
