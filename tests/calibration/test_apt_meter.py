"""APT-METER, whose two streams look at each other in every layer, calibrated: both are quantized, and answers stay."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from memvp_export import export_onnx, read_source
from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.modes import MODES
from memvp_export.calibration.report import Report
from memvp_export.examples.random_meter import PRESETS, write_source
from memvp_export.exporter.data import Request
from memvp_export.exporter.parity.check import check

SIZES = replace(PRESETS["odd"], layers=1, text_layers=1, blocks=1)


@pytest.fixture(scope="module")
def reports(questions: list[Request], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Report]]:
    """A bundle, and what its calibration in each mode said."""
    folder = tmp_path_factory.mktemp("meter")
    write_source(folder, SIZES, "vqa")
    root = export_onnx(read_source(folder), folder / "bundle", "fp32").root
    return root, {mode: calibrate(root, questions, mode, rest="fp32", sensitivity=False, samples=10) for mode in MODES}


def test_products_of_both_streams_are_quantized(reports: tuple[Path, dict[str, Report]]) -> None:
    for report in reports[1].values():
        quantized = {row.layer for row in report.layers if row.reason is None}
        for stream in ("text", "image"):
            for looks_at in ("attention", "crossattention"):
                layer = f"cross_modal_{stream}_layers.0.{looks_at}"
                assert {f"{layer}.self.{one}/MatMul" for one in ("query", "key", "value")} <= quantized


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
