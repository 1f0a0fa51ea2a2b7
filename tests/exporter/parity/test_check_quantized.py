"""Is a quantized precision accepted? By the answers that it keeps, and by nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memvp_export.calibration.calibrate import calibrate
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import read_requests
from memvp_export.exporter.datasets import open_dataset
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models.family import components_of
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.answering import Judged, compare_data
from memvp_export.exporter.parity.check import GRAPH_ONLY, check
from memvp_export.exporter.parity.page import write_check_page
from memvp_export.exporter.parity.recording import record_answers
from memvp_export.exporter.parity.report import Report
from memvp_export.exporter.parity.samples import read_samples
from memvp_export.exporter.parity.thresholds import THRESHOLDS
from memvp_export.exporter.pipeline import Pipeline
from memvp_export.exporter.run import open_pipeline
from memvp_export.exporter.session import Arrays

Quantized = tuple[Path, list[dict[str, Any]]]


def _lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def kept(quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that int8-weights answers as float32 does, at every token, with float32's answer as the right one, but
    for one that both get wrong. A random model has near ties; those that part are not in."""
    root, lines = quantized
    bundle = Bundle.open(root)
    data = _lines(tmp_path_factory.mktemp("kept") / "all.jsonl", lines)
    components = components_of(bundle.manifest["family"], bundle.manifest["config"])
    pipeline = open_pipeline(bundle)
    assert isinstance(pipeline, Pipeline)
    sessions = [OnnxSession(bundle, name) for name in ("fp32", "int8-weights")]
    same = []
    for line, request in zip(lines, read_requests(data), strict=True):
        answers = pipeline.answer([request])
        asked = (components, pipeline, [request], answers, pipeline.defaults)
        plain, other = (record_answers(session, *asked)[0][-1].outputs["logits"] for session in sessions)
        if (plain.argmax(-1) == other.argmax(-1)).all():
            same.append({**line, "answer": answers[0].text})
    assert len(same) >= 8
    return _lines(data.with_name("kept.jsonl"), [*same[:-1], {**same[-1], "answer": "no such answer"}])


@pytest.fixture(scope="session")
def accepted(quantized: Quantized, kept: Path) -> Report:
    return check(quantized[0], precision="int8-weights", data=kept)


def test_kept_answers_are_accepted_with_figures_and_doubts(accepted: Report, kept: Path) -> None:
    count = len(kept.read_text().splitlines())
    assert accepted.passed and accepted.verdict.startswith("INT8-WEIGHTS ACCEPTED"), accepted.failures
    quality = accepted.quality
    assert quality is not None and quality.accuracy is not None and quality.kl is not None
    assert (quality.questions, quality.tokens, quality.top1) == (count, 1.0, 1.0)
    assert quality.accuracy.share == quality.accuracy.reference == (count - 1) / count
    assert 0 < quality.kl < 0.005
    assert any(f"{count} questions cannot rule out" in note for note in accepted.notes)
    assert f"difference +0.00 ± {100 * quality.accuracy.half:.2f}" in accepted.verdict
    assert json.loads(json.dumps(accepted.to_dict()))["quality"]["accuracy"]["questions"] == count


def test_the_page_says_it_too(accepted: Report, quantized: Quantized, tmp_path: Path) -> None:
    write_check_page(accepted, Bundle.open(quantized[0]), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for words in ("int8-weights is accepted", "All of the data", "0.005", "cannot rule out"):
        assert words in page


def test_without_questions_nothing_is_accepted(quantized: Quantized) -> None:
    report = check(quantized[0], precision="int8-weights")
    assert not report.passed and report.outputs
    assert report.verdict.startswith("INT8-WEIGHTS NOT ACCEPTED") and "give --data" in report.verdict


def test_bad_ranges_are_refused(quantized: Quantized, kept: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(quantized[0], tmp_path / "bundle"))
    scales = json.loads((root / "calibration/int8.json").read_text())
    for layer in scales["layers"]["decoder"].values():
        layer["clip"] /= 40
    (tmp_path / "bad.json").write_text(json.dumps(scales))
    calibrate(root, precision="int8", rest="fp32", scales=tmp_path / "bad.json")
    report = check(root, precision="int8", data=kept)
    assert not report.passed and report.verdict.startswith("INT8 NOT ACCEPTED")
    failures = " ".join(report.failures)
    assert "first tokens agree" in failures and "greedy tokens" in failures and "points may be lost" in failures


def test_the_decoder_is_judged_on_the_visual_memory_that_it_gets(
    quantized: Quantized, kept: Path, accepted: Report, tmp_path: Path
) -> None:
    """A fault in `vision` alone moves the divergence of the logits."""
    root = Path(shutil.copytree(quantized[0], tmp_path / "bundle"))
    scales = json.loads((root / "calibration/int8.json").read_text())
    for layer in scales["layers"]["vision"].values():
        layer["clip"] /= 40
    scales["layers"]["decoder"] = {}
    scales["factors"]["decoder"] = {}
    (tmp_path / "bad.json").write_text(json.dumps(scales))
    calibrate(root, precision="int8", rest="fp32", scales=tmp_path / "bad.json")
    report = check(root, precision="int8", data=kept)
    assert report.quality and accepted.quality and report.quality.kl and accepted.quality.kl
    assert report.quality.kl > 3 * accepted.quality.kl


def test_questions_about_the_same_pictures_are_judged_by_what_vision_gave(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    class Blind(OnnxSession):
        def run(self, component: str, inputs: Any, outputs: Any = None) -> Arrays:
            found = super().run(component, inputs, outputs)
            return {name: array * 0 if component == "vision" else array for name, array in found.items()}

    bundle = Bundle.open(bundle_of("fp32"))
    (request, _), *_ = read_samples(bundle)
    lines = [{"id": str(i), "text": "what is it? " + "so " * i, "image": str(request.image)} for i in range(16)]
    components = components_of(bundle.manifest["family"], bundle.manifest["config"])
    names = [component.name for component in components]
    report = Report("", "memvp-llama", "onnxruntime", "fp32", THRESHOLDS["int8-weights"], names)
    dataset = open_dataset(_lines(tmp_path / "in.jsonl", lines))
    blind = Blind(bundle)
    tested = Judged(blind, blind, bundle.manifest)
    compare_data(report, tested, OnnxSession(bundle), components, bundle, dataset, GRAPH_ONLY)
    far = {r.case: r.distance.relative_l2 for r in report.outputs if r.output == "logits"}
    assert far.keys() == {"data, requests 1 to 8", "data, requests 9 to 16"} and min(far.values()) > 1e-3


def test_a_precision_that_was_not_calibrated_is_refused(quantized: Quantized, kept: Path) -> None:
    with pytest.raises(InputError, match=r"no fp8 graph.*memvp-export calibrate"):
        check(quantized[0], precision="fp8", data=kept)


def test_the_commands_take_quantized_precisions(
    command: Callable[..., Any], quantized: Quantized, kept: Path, tmp_path: Path
) -> None:
    root, lines = quantized
    asked = ("--precision", "int8-weights", "--json")
    result = command("check", root, *asked, "--data", kept)
    assert result.code == 0 and json.loads(result.out)["quality"]["tokens"] == 1.0
    assert "INT8-WEIGHTS ACCEPTED" in result.verdict
    answer = json.loads(command("run", root, *asked, "--image", lines[0]["image"], "--text", lines[0]["text"]).out)
    plain = command("run", root, "--json", "--image", lines[0]["image"], "--text", lines[0]["text"])
    assert answer["text"] == json.loads(plain.out)["text"]
    refused = command("check", root, "--precision", "int8", "--bisect")
    assert refused.code == 2 and "ranks its layers" in refused.err
    assert command("run", root, "--precision", "fp8", "--text", "?").code == 2
