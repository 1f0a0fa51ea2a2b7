"""APT-METER, whose two streams look at each other in every layer: calibrated, accepted and built."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from memvp_export import export_onnx, read_source
from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.modes import MODES
from memvp_export.calibration.report import Report
from memvp_export.examples.random_meter import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Request
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.request import Request as Engines
from memvp_export.exporter.inspection.values import load_graph
from memvp_export.exporter.parity.check import check

from ..exporter.engines.conftest import tensorrt_here  # noqa: F401

SIZES = replace(PRESETS["odd"], layers=1, text_layers=1, blocks=1)


@pytest.fixture(scope="module")
def reports(questions: list[Request], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Report]]:
    """A bundle, and what its calibration in each mode said."""
    folder = tmp_path_factory.mktemp("meter")
    write_source(folder, SIZES, "vqa")
    root = export_onnx(read_source(folder), folder / "bundle", "fp32").root
    return root, {mode: calibrate(root, questions, mode, rest="fp32", sensitivity=False, samples=10) for mode in MODES}


def test_products_of_both_streams_are_quantized_and_memories_are_not(reports: tuple[Path, dict[str, Report]]) -> None:
    root, by_mode = reports
    manifest = Bundle.open(root).manifest["components"]["model"]["graphs"]
    for mode, report in by_mode.items():
        fits = "last layer: its error is the answer's" if mode != "int4-weights" else "its 56 inputs are no multiple"
        left = {row.layer: row.reason for row in report.layers if row.reason}
        assert list(left) == ["vqa_classifier.3/MatMul"] and fits in left["vqa_classifier.3/MatMul"]
        assert manifest[mode]["layers"] == report.quantized
        quantized = {row.layer for row in report.layers} - left.keys()
        for stream in ("text", "image"):
            for looks_at in ("attention", "crossattention"):
                layer = f"cross_modal_{stream}_layers.0.{looks_at}"
                assert {f"{layer}.self.{one}/MatMul" for one in ("query", "key", "value")} <= quantized
    lookups = [node for node in load_graph(root / "graphs/model.int8.onnx").graph.node if node.domain]
    assert lookups and not any("DequantizeLinear" in name for node in lookups for name in node.input)


# The largest divergence of the answers, in nats, that random weights were seen to come to, and a half.
LIMITS = {"int8": 5e-4, "fp8": 5e-3, "int8-weights": 2e-4, "int4-weights": 1e-2}


@pytest.mark.parametrize("mode", MODES)
def test_its_answers_stay_near(
    mode: str, reports: tuple[Path, dict[str, Report]], questions: list[Request], tmp_path: Path
) -> None:
    lines = [{"id": one.id, "text": one.text, "image": str(one.image)} for one in questions]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    quality = check(reports[0], precision=mode, data=tmp_path / "data.jsonl").quality
    # Of random weights the two best classes are so close that their order says nothing.
    assert quality is not None and quality.kl is not None and 0 < quality.kl < LIMITS[mode]


def test_its_engine_computes_in_int8(reports: tuple[Path, dict[str, Report]], tensorrt_here: None) -> None:  # noqa: F811
    root, by_mode = reports
    (entry,) = build_engines(root, Engines("int8", target="tensorrt", max_batch=2))
    layers = json.loads(Bundle.open(root).path(entry["layers"]).read_text())["layers"]
    parts = [part for layer in layers if layer["matrix"] for part in layer["constants"] if min(part["dims"]) > 1]
    rows = [row for row in by_mode["int8"].layers if row.reason is None]
    chosen = sum(row.inputs * row.outputs for row in rows if row.inputs and row.outputs)
    assert sum(math.prod(part["dims"]) for part in parts if part["dtype"] == "int8") == chosen
