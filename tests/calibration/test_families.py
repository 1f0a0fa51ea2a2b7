"""Every family in every mode: calibrated, its engines built for real without a GPU, and the types in them read back.

A family is a row of FAMILIES; what is special about it is in tests of its own.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from memvp_export import export_onnx, read_source
from memvp_export.calibration import image_samples
from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.modes import MODES
from memvp_export.calibration.report import LayerRow, Report
from memvp_export.calibration.samples import open_samples
from memvp_export.calibration.tape import Tape
from memvp_export.examples import (
    random_bart,
    random_clip,
    random_diffusion,
    random_meter,
    random_source,
    random_t5,
    random_vilt,
)
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Request
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.request import Request as Engines
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.inspection.values import load_graph
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.text_to_image import ImageSettings

from ..exporter.engines.conftest import plugin_library, tensorrt_here  # noqa: F401
from .conftest import DIFFUSION

LAST = "last layer: its error is the answer's"
FIRST = "first layer: it reads the input itself"
ALONE = "it reads masks, positions or time steps alone"
FEW = "the component is hardly made of products: nothing is gained"
SMALL = "smaller than 16: nothing is gained"


@dataclass(frozen=True)
class Family:
    """A tiny model: `write` its source, what its samples are made of questions by, given that folder, the products that
    are left and why (as parts of their names), and how many lookups of the memory its engines leave to the plugin."""

    write: Callable[[Path], Any]
    asked: Callable[[Request, Path], Request]
    left: dict[str, str]
    lookups: int = 0


# Sizes that other tests trace too are not traced again in their process.
FAMILIES = {
    "memvp-llama": Family(
        lambda folder: random_source.write_source(folder, random_source.PRESETS["odd"]),
        lambda one, folder: one,
        {"adapter_mlp": SMALL, "adapter_proj.fc2": LAST, "lm_head": LAST},
        lookups=3,
    ),
    "memvp-bart": Family(
        lambda folder: random_bart.write_source(folder, replace(random_bart.PRESETS["odd"], decoder_layers=1)),
        lambda one, folder: replace(one, image=folder / "first.npy"),
        {"adapter_proj.fc1": SMALL, "adapter_proj.fc2": SMALL},
        lookups=2,
    ),
    "memvp-t5": Family(
        lambda folder: random_t5.write_source(folder, replace(random_t5.PRESETS["odd"], decoder_layers=1)),
        lambda one, folder: replace(one, image=folder / "first.npy"),
        {"adapter_proj.fc1": SMALL, "adapter_proj.fc2": SMALL},
        lookups=2,
    ),
    "apt-vilt": Family(
        lambda folder: random_vilt.write_source(folder, replace(random_vilt.PRESETS["odd"], blocks=2)),
        lambda one, folder: one,
        {"transformer/MatMul": ALONE, "vqa_classifier.3": LAST},
    ),
    "apt-meter": Family(
        lambda folder: random_meter.write_source(
            folder, replace(random_meter.PRESETS["odd"], layers=1, text_layers=1, blocks=1)
        ),
        lambda one, folder: one,
        {"vqa_classifier.3": LAST},
    ),
    "apt-clip": Family(
        lambda folder: random_clip.write_source(
            folder, replace(random_clip.PRESETS["odd"], layers=2, image_prompts=1, text_layers=1)
        ),
        lambda one, folder: replace(one, text="a {}"),
        {"visual_projection": LAST, "text_projection": LAST},
    ),
    "apt-stable-diffusion": Family(
        lambda folder: random_diffusion.write_source(folder, DIFFUSION),
        lambda one, folder: replace(one, image=None),
        {"time_emb": ALONE, "attn2.to_k": FIRST, "attn2.to_v": FIRST, "decoder.mid_block": FEW},
    ),
}
# What quantized weights are stored in, and what their products read.
TYPES = {
    "int8": ("int8", "int8"),
    "fp8": ("float8e4m3fn", "float8e4m3fn"),
    "int8-weights": ("int8", "float32"),
    "int4-weights": ("int4", "float32"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def calibrated(
    request: pytest.FixtureRequest, questions: list[Request], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Family, Path, dict[str, Report]]:
    """A family's row, its float32 bundle, and the report of every mode."""
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp(request.param)
    if request.param == "apt-stable-diffusion":
        pytest.importorskip("diffusers")
    family.write(folder)
    root = export_onnx(read_source(folder), folder / "bundle", "fp32", golden=False).root
    data = _asked(family, root, questions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_samples, "SETTINGS", ImageSettings(steps=2))
        reports = {
            mode: calibrate(root, data, mode, "max", mode == "int8", samples=2, rest="fp32", sensitivity=False)
            for mode in MODES
        }
    return family, root, reports


def test_what_is_left_and_why(calibrated: tuple[Family, Path, dict[str, Report]]) -> None:
    family, root, reports = calibrated
    components = Bundle.open(root).manifest["components"]
    for mode, report in reports.items():
        left = {row.layer: row.reason for row in report.layers if row.reason}
        for name, reason in left.items():
            why = next((why for part, why in family.left.items() if part in name), None)
            assert reason == why or (mode == "int4-weights" and "no multiple of a block" in str(reason)), (name, reason)
        if mode != "int4-weights":
            assert all(any(part in name for name in left) for part in family.left)
        assert sum(part["graphs"][mode]["layers"] for part in components.values()) == report.quantized > 0
        memories = [node for part in components for node in load_graph(Bundle.open(root).graph(part, mode)).graph.node]
        assert not any("DequantizeLinear" in name for node in memories if node.domain for name in node.input)


@pytest.mark.parametrize("mode", MODES)
def test_engines_have_the_types_asked_for(
    mode: str,
    calibrated: tuple[Family, Path, dict[str, Report]],
    plugin_library: Path,  # noqa: F811
    tensorrt_here: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of all products with a stored matrix, those that were chosen are in the type asked for, to the last byte, and no
    others are."""
    family, root, reports = calibrated
    monkeypatch.setenv("MEMVP_PLUGIN", str(plugin_library))
    stored, read = TYPES[mode]
    bundle, lookups = Bundle.open(root), 0
    plugin = "on" if family.lookups else "auto"
    built = build_engines(bundle, Engines(mode, target="tensorrt", max_batch=2, plugin=plugin))
    bundle = Bundle.open(root)
    for entry in built:
        record = json.loads(bundle.path(entry["layers"]).read_text())
        rows = [row for row in reports[mode].layers if row.component == entry["component"]]
        profiles = len(entry["profiles"])
        holding = [layer for layer in record["layers"] if _matrices(layer, stored)]
        found = sum(math.prod(part["dims"]) for layer in holding for part in _matrices(layer, stored))
        assert found == profiles * sum(_size(row) for row in rows if not row.reason)
        # What makes query, key and value at once is in parts.
        nodes = {name.removesuffix("/weight/DequantizeLinear") for layer in holding for name in layer["onnx"]}
        names = {name.removesuffix(".0") for name in nodes}
        assert {row.layer for row in rows if not row.reason} <= names
        assert not {row.layer for row in rows if row.reason} & names
        # A matrix that is laid out anew is in a layer before its product.
        assert all(read in {part["dtype"] for part in layer["inputs"]} for layer in holding if layer["matrix"])
        lookups += sum(bool(layer["plugin"]) for layer in record["layers"]) // profiles
    assert lookups == family.lookups


def _asked(family: Family, root: Path, questions: list[Request]) -> list[Request]:
    return [family.asked(one, root.parent) for one in questions]


@pytest.mark.parametrize("calibrated", ["memvp-llama", "memvp-bart", "memvp-t5"], indirect=True)
def test_what_is_written_is_judged_and_nothing_else(
    calibrated: tuple[Family, Path, dict[str, Report]], questions: list[Request]
) -> None:
    """A memory or a cache that counted as an answer would halve the damage."""
    family, root, _ = calibrated
    bundle = Bundle.open(root)
    tape = Tape(OnnxSession(bundle))
    list(open_samples(bundle, _asked(family, root, questions), 3, 0).play(tape))
    tape.close()
    assert {name for name, _, _ in tape.replay(OnnxSession(bundle))} == {"logits"}


@pytest.mark.parametrize("calibrated", ["memvp-bart"], indirect=True)
def test_a_layer_that_reads_an_input_can_be_asked_for(
    calibrated: tuple[Family, Path, dict[str, Report]], questions: list[Request], tmp_path: Path
) -> None:
    family, root, _ = calibrated
    bundle = Path(shutil.copytree(root, tmp_path / "bundle"))
    data = _asked(family, root, questions)
    report = calibrate(bundle, data, "int8", samples=2, rest="fp32", sensitivity=False, include=["adapter_proj.fc1"])
    assert "adapter_proj.fc1/MatMul" in {row.layer for row in report.layers if row.reason is None}


@pytest.mark.parametrize("calibrated", ["memvp-bart", "apt-clip"], indirect=True)
def test_questions_for_another_family_are_refused_at_once(
    calibrated: tuple[Family, Path, dict[str, Report]], questions: list[Request]
) -> None:
    with pytest.raises(InputError, match=r"are no image features|cannot be used|template"):
        open_samples(Bundle.open(calibrated[1]), questions, 2, 0)


def _matrices(layer: dict[str, Any], dtype: str) -> list[dict[str, Any]]:
    """A layer's stored matrices of a type."""
    return [part for part in layer["constants"] if part["dtype"] == dtype and sum(dim > 1 for dim in part["dims"]) == 2]


def _size(row: LayerRow) -> int:
    return (row.inputs or 0) * (row.outputs or 0)
