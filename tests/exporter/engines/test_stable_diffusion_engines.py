"""Stable Diffusion's graphs in half precision, and what is in engines built for real without a GPU."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from memvp_export import export_onnx, read_source
from memvp_export.examples.random_diffusion import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.call_shapes import check_dims, lengths_of
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.profiles import make_profiles
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs.lowering import lower
from memvp_export.exporter.inspection.path_report import inspect_path
from memvp_export.exporter.parity import half
from memvp_export.exporter.parity.check import check
from memvp_export.exporter.parity.samples import read_cases

pytest.importorskip("diffusers")
# Attention in the middle alone: tracing the others takes most of the time, and they are the same.
SIZES = replace(PRESETS["second"], attended=0, kinds="both", text_layers=1, vae_levels=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("second")
    write_source(folder, SIZES)
    return export_onnx(read_source(folder), folder / "bundle", "fp16").root


def test_half_graphs_pass_in_true_half_arithmetic(root: Path) -> None:
    report = check(root)
    assert report.passed, report.failures
    found = {result.component for result in report.outputs if "true half arithmetic" in result.case}
    assert found == {"text_encoder", "unet", "vae_decoder"} and not report.notes
    assert max(result.distance.relative_l2 for result in report.outputs) < 5e-3


def test_what_is_too_much_work_for_half_arithmetic_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "LARGEST_MACS", 2_000_000)
    bundle = Bundle.open(root)
    pairs, reasons = half.true_half(bundle, read_cases(bundle))
    assert [pair.component for pair in pairs] == ["text_encoder", "vae_decoder"]
    assert reasons == ["true half arithmetic of unet not run: 0 G multiply-accumulates are too much work for that"]


def test_norms_and_softmax_stay_float32(root: Path) -> None:
    graph = inspect_path(Bundle.open(root).graph("unet"))
    reasons = {island["reason"] for island in graph["float32_islands"]}
    assert {"norm statistics", "softmax and mask", "memory products"} <= reasons and "other" not in reasons
    types = graph["nodes"]["by_operator"]
    assert {*types["InstanceNormalization"]} == {*types["Softmax"]} == {"float32"}
    assert {*types["Conv"]} == {*types["MatMul"]} == {"float16"}


@pytest.mark.parametrize("component", ["unet", "vae_decoder"])
def test_for_tensorrt_8_the_graphs_compute_the_same(root: Path, tmp_path: Path, component: str) -> None:
    bundle = Bundle.open(root)
    (case,) = (case for case in read_cases(bundle) if case.component == component)

    def run(opset17: bool, factor: float = 1.0) -> np.ndarray:
        folder = tmp_path / f"{opset17} {factor}"
        folder.mkdir()
        lowered = lower(bundle, component, "fp16", folder, plugin=False, portable=True, opset17=opset17)
        given = {name: array * factor if array.dtype.kind == "f" else array for name, array in case.inputs.items()}
        inputs = {port["name"]: given[port["name"]].astype(port["dtype"]) for port in lowered.inputs}
        return onnxruntime.InferenceSession(lowered.path, providers=["CPUExecutionProvider"]).run(None, inputs)[0]

    expected, found = run(False), run(True)
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()
    assert np.abs(run(True, 2.0) - found).max() > 0.01 * np.abs(found).max()


def test_half_engines_have_every_site(tensorrt_here: None, root: Path) -> None:
    build_engines(root, Request(target="tensorrt", precision="fp16", max_batch=4))
    bundle = Bundle.open(root, verify=True)
    entries = {entry["component"]: entry for entry in bundle.manifest["engines"]}
    assert list(entries) == ["text_encoder", "unet", "vae_decoder"]
    built: dict[str, Any] = json.loads(bundle.path(entries["unet"]["layers"]).read_text())
    assert not any("lugin" in layer["type"] for layer in built["layers"])
    wide = {
        part["dtype"] for layer in built["layers"] for part in layer["constants"] if math.prod(part["dims"]) > 1 << 12
    }
    assert wide == {"float16"}
    sites = {
        name.removeprefix("node_of_").split("/")[0]
        for layer in built["layers"]
        for name in layer["onnx"]
        if "ApproximatedPrompt" in name
    }
    assert sites == {f"mid_block.attentions.0.transformer_blocks.0.attn{i}.to_out.0" for i in (1, 2)}
    (profile,) = entries["unet"]["profiles"]
    assert profile["shapes"]["sample"] == {"min": [1, 4, 2, 2], "opt": [2, 4, 16, 16], "max": [4, 4, 16, 16]}
    (profile,) = entries["vae_decoder"]["profiles"]
    assert profile["shapes"]["latent_sample"]["max"] == [4, 4, 16, 16]


def test_profiles_of_latents_are_multiples() -> None:
    ports = [{"name": "sample", "dims": ["batch", 4, "8*height", "8*width"]}]
    ranges = {"batch": (1, 16), "height": (1, 12), "width": (1, 12)}
    (profile,) = make_profiles(ports, ranges, max_batch=2, max_shapes={"sample": [2, 4, 64, 96]})
    assert profile.shapes["sample"] == {"min": [1, 4, 8, 8], "opt": [1, 4, 64, 96], "max": [2, 4, 64, 96]}
    with pytest.raises(InputError, match="60 is no multiple of 8"):
        make_profiles(ports, ranges, max_shapes={"sample": [2, 4, 60, 96]})
    with pytest.raises(InputError, match="height = 13"):
        make_profiles(ports, ranges, max_shapes={"sample": [2, 4, 104, 96]})


def test_latents_that_are_no_multiple_are_refused() -> None:
    entry = {"inputs": [{"name": "sample", "dims": ["batch", 4, "8*height", "8*width"]}]}
    assert lengths_of(entry["inputs"], {"sample": [2, 4, 64, 96]}) == {"batch": 2, "height": 8, "width": 12}
    check_dims(entry["inputs"], {"sample": [2, 4, 64, 96]})
    with pytest.raises(InputError, match=r"it takes \[2, 4, 56, 96\], which is \[batch, 4, 8\*height, 8\*width\]"):
        check_dims(entry["inputs"], {"sample": [2, 4, 60, 96]})
