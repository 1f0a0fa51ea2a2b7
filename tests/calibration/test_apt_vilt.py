"""APT-ViLT, which answers in one call of one component: calibrated, accepted and built."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from memvp_export import export_onnx, read_source
from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.report import Report
from memvp_export.examples.random_vilt import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Request
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.request import Request as Engines
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.parity.check import check

from ..exporter.engines.conftest import tensorrt_here  # noqa: F401

SIZES = replace(PRESETS["odd"], blocks=2)


@pytest.fixture(scope="module")
def calibrated(questions: list[Request], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("vilt")
    write_source(folder, SIZES, "vqa")
    root = export_onnx(read_source(folder), folder / "bundle", "fp32").root
    return root, calibrate(root, questions, "int8", rest="fp32", sensitivity=False, samples=10)


def test_its_products_are_quantized_and_its_memory_is_not(calibrated: tuple[Path, Report]) -> None:
    root, report = calibrated
    left = {row.layer: row.reason for row in report.layers if row.reason}
    assert left == {
        "transformer/MatMul": "it reads masks or positions alone",
        "vqa_classifier.3/MatMul": "last layer: its error is the answer's",
    }
    graph = Bundle.open(root).manifest["components"]["model"]["graphs"]["int8"]
    # Four products a block, the first of which makes q, k and v; the pooler's, and the first of the classifier.
    assert graph["layers"] == report.quantized == 4 * SIZES.blocks + 2


def test_it_is_accepted_by_its_answers(
    calibrated: tuple[Path, Report], questions: list[Request], tmp_path: Path
) -> None:
    lines = [{"id": one.id, "text": one.text, "image": str(one.image)} for one in questions]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = check(calibrated[0], precision="int8", data=tmp_path / "data.jsonl")
    assert report.passed, report.failures
    assert report.quality is not None and report.quality.kl is not None
    assert (report.quality.questions, report.quality.rows) == (20, 20) and 0 < report.quality.kl < 1e-3


def test_requests_of_another_family_are_refused(calibrated: tuple[Path, Report], questions: list[Request]) -> None:
    with pytest.raises(InputError, match="looks at 1"):
        calibrate(calibrated[0], [replace(one, image=None) for one in questions], "fp8")
    with pytest.raises(InputError, match="looks at 1"):
        calibrate(calibrated[0], [replace(one, image_2=one.image) for one in questions], "fp8")


def test_its_engine_computes_in_int8(calibrated: tuple[Path, Report], tensorrt_here: None) -> None:  # noqa: F811
    root, report = calibrated
    (entry,) = build_engines(root, Engines("int8", target="tensorrt", max_batch=2))
    layers = json.loads(Bundle.open(root).path(entry["layers"]).read_text())["layers"]
    parts = [part for layer in layers if layer["matrix"] for part in layer["constants"] if min(part["dims"]) > 1]
    chosen = sum(row.inputs * row.outputs for row in report.layers if row.reason is None and row.inputs and row.outputs)
    assert sum(math.prod(part["dims"]) for part in parts if part["dtype"] == "int8") == chosen
