"""APT-ViLT, which answers in one call of one component, calibrated and accepted. Its engines are in test_families."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from memvp_export import export_onnx, read_source
from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.report import Report
from memvp_export.examples.random_vilt import PRESETS, write_source
from memvp_export.exporter.data import Request
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.parity.check import check

SIZES = replace(PRESETS["odd"], blocks=2)


@pytest.fixture(scope="module")
def calibrated(questions: list[Request], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("vilt")
    write_source(folder, SIZES, "vqa")
    root = export_onnx(read_source(folder), folder / "bundle", "fp32").root
    return root, calibrate(root, questions, "int8", rest="fp32", sensitivity=False, samples=10)


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
