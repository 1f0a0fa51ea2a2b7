"""Engines of quantized graphs, built for real without a GPU and with the plugin: what each product computes in."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from memvp_export.calibration.calibrate import calibrate
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.request import Request

# What weights are stored in, and what products read.
TYPES = {
    "int8": ("int8", "int8"),
    "fp8": ("float8e4m3fn", "float8e4m3fn"),
    "int8-weights": ("int8", "float16"),
    "int4-weights": ("int4", "float16"),
}
LAYERS, PROFILES = 3, 2
Layer = dict[str, Any]


@dataclass(frozen=True)
class Built:
    """A decoder's engine, and the names and sizes of the layers that calibration chose."""

    mode: str
    entry: dict[str, Any]
    layers: list[Layer]
    chosen: dict[str, int]


@pytest.fixture(
    scope="module", params=["int8", *(pytest.param(name, marks=pytest.mark.slow) for name in TYPES if name != "int8")]
)
def built(
    request: pytest.FixtureRequest,
    plugin_library: Path,
    quantized: tuple[Path, Any],
    bundle_of: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
    tensorrt_here: None,
) -> Built:
    """The fp16 bundle of the same model, quantized by the ranges that were found for int8: those of activations serve
    fp8 as well, and weights have none."""
    mode, folder = str(request.param), tmp_path_factory.mktemp("quantized-engines")
    root = Path(shutil.copytree(bundle_of("fp16"), folder / "bundle"))
    scales = json.loads((quantized[0] / "calibration/int8.json").read_text()) | {"mode": mode}
    if mode.endswith("-weights"):
        for layer in (layer for layers in scales["layers"].values() for layer in layers.values()):
            layer["clip"] = None
    (folder / "scales.json").write_text(json.dumps(scales))
    report = calibrate(root, precision=mode, scales=folder / "scales.json")
    asked = Request(mode, target="tensorrt", components=["decoder"], plugin="on", max_batch=4, max_seq=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMVP_PLUGIN", str(plugin_library))
        (entry,) = build_engines(root, asked)
    record = json.loads(Bundle.open(root, verify=True).path(entry["layers"]).read_text())
    graph = scales["layers"]["decoder"]
    assert report.quantized == sum(map(len, scales["layers"].values()))
    return Built(mode, entry, record["layers"], {name: _size(quantized[0], name) for name in graph})


def _size(root: Path, name: str) -> int:
    """Numbers in the matrix of a decoder's layer, as the calibration's report has it."""
    rows = json.loads((root / "reports/calibration.int8.json").read_text())["layers"]
    (row,) = (row for row in rows if row["layer"] == name and row["component"] == "decoder")
    return int(row["inputs"] * row["outputs"])


def _matrices(layer: Layer) -> list[dict[str, Any]]:
    """Stored matrices; scales of blocks and vectors are none."""
    held = [part for part in layer["constants"] if len([dim for dim in part["dims"] if dim > 1]) == 2]
    return [part for part in held if math.prod(part["dims"]) >= 96 * 96]


def test_every_chosen_product_is_of_the_asked_type(built: Built) -> None:
    stored, _ = TYPES[built.mode]
    for name in built.chosen:
        found = [part["dtype"] for layer in built.layers if name in layer["onnx"] for part in _matrices(layer)]
        # Products that are merged share a matrix; each profile has its own.
        assert len(found) >= PROFILES and set(found) == {stored}, (name, found)


def test_all_their_bytes_are_in_the_engine_once_a_profile(built: Built) -> None:
    stored, _ = TYPES[built.mode]
    parts = [part for layer in built.layers for part in _matrices(layer) if part["dtype"] == stored]
    assert sum(math.prod(part["dims"]) for part in parts) == PROFILES * sum(built.chosen.values())


def test_products_read_what_the_mode_says(built: Built) -> None:
    stored, read = TYPES[built.mode]
    layers = [layer for layer in built.layers if any(part["dtype"] == stored for part in _matrices(layer))]
    assert layers
    for layer in layers:
        assert read in {part["dtype"] for part in layer["inputs"]}, layer["name"]


def test_what_was_not_chosen_is_half(built: Built) -> None:
    head = [part for layer in built.layers if "lm_head/MatMul" in layer["onnx"] for part in _matrices(layer)]
    assert head and {part["dtype"] for part in head} == {"float16"}
    lookups = [layer for layer in built.layers if layer["plugin"]]
    assert len(lookups) == PROFILES * LAYERS and built.entry["lowering"] == "plugin"
    parts = [part for layer in lookups for part in (*layer["inputs"], *layer["constants"], *layer["outputs"])]
    assert {part["dtype"] for part in parts} - {"uint8"} == {"float16"}
    assert {port["dtype"] for port in built.entry["inputs"] if port["name"].startswith("past_")} == {"float16"}


def test_a_step_copies_no_cache(built: Built) -> None:
    assert built.entry["cache"]["kind"] == "delta"
    readers: dict[str, list[str]] = {}
    for layer in built.layers:
        for name in {part["name"] for part in layer["inputs"]}:
            if name.startswith("past_key_values.") and name.endswith("[profile 1]"):
                readers.setdefault(name, []).append(layer["name"])
    # Attention itself, and nothing else.
    assert len(readers) == 2 * LAYERS and {len(names) for names in readers.values()} == {1}, readers
