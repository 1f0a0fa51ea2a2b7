"""The whole of calibration on a small bundle."""

import errno
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from memvp_export.calibration import collect, observe, publish
from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.collect import Resume
from memvp_export.calibration.samples import open_samples
from memvp_export.exporter.bundle import Bundle, change
from memvp_export.exporter.data import Request
from memvp_export.exporter.errors import EnvironmentLack, InputError, VerdictError
from memvp_export.exporter.run import open_pipeline, open_session

VISION = ["visual.*", "adapter_proj.*", "backbone.*"]


def _int8(bundle: Path, data: Any, **options: Any) -> Any:
    return calibrate(bundle, data, "int8", **{"rest": "fp32", "sensitivity": False, "samples": 12, **options})


def _visual_memory(bundle: Bundle) -> np.ndarray:
    """Of noise, and of a row without an image."""
    size = bundle.manifest["preprocessing"]
    pixels = np.random.default_rng(0).standard_normal((2, 3, size["height"], size["width"])).astype(np.float32)
    inputs = {"pixel_values": pixels, "image_indicator": np.array([1.0, 0.0], np.float32)}
    return open_session(bundle, precision="int8").run("vision", inputs)["visual_memory"].astype(np.float32)


def _files(bundle: Path) -> dict[str, bytes]:
    return {str(p.relative_to(bundle)): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}


def test_quantized_graphs_enter_the_bundle_and_answer(bundle: Path, questions: list[Request]) -> None:
    report = _int8(bundle, questions, sensitivity=True)
    opened = Bundle.open(bundle, verify=True)
    entry = opened.manifest["components"]["decoder"]["graphs"]["int8"]
    assert (entry["rest"], entry["layers"], opened.plain_precision("int8")) == ("fp32", 21, "fp32")
    assert json.loads(opened.path(entry["report"]).read_text())["quantized"] == report.quantized
    assert report.sizes["decoder"]["int8"] < 0.6 * report.sizes["decoder"]["rest"]
    assert 0 < report.damage.relative_l2 < 0.2
    answers = [open_pipeline(opened, precision=name).answer(questions[:8]) for name in ("fp32", "int8")]
    same = [a.ids == b.ids for a, b in zip(*answers, strict=True)]
    assert sum(same) >= 6


def test_a_row_without_an_image_has_no_visual_memory(bundle: Path, questions: list[Request]) -> None:
    _int8(bundle, questions)
    found = _visual_memory(Bundle.open(bundle))
    assert np.abs(found[0]).max() > 0 and not found[1].any()


def test_the_same_data_gives_the_same_file(bundle: Path, questions: list[Request]) -> None:
    _int8(bundle, questions)
    first = _files(bundle)
    _int8(bundle, questions)
    second = _files(bundle)
    assert first.keys() == second.keys()
    for name in ("calibration/int8.json", "graphs/decoder.int8.onnx", "graphs/decoder.int8.onnx.data"):
        assert first[name] == second[name]
    _int8(bundle, questions, seed=1)
    assert _files(bundle)["calibration/int8.json"] != first["calibration/int8.json"]


def test_a_scale_file_serves_another_precision(
    bundle: Path, bundle_of: Callable[[str], Path], questions: list[Request], tmp_path: Path
) -> None:
    _int8(bundle, questions)
    half = Path(shutil.copytree(bundle_of("fp16"), tmp_path / "half"))
    calibrate(half, precision="int8", scales=bundle / "calibration/int8.json")
    assert Bundle.open(half).plain_precision("int8") == "fp16"
    first, second = (_visual_memory(Bundle.open(one)) for one in (bundle, half))
    assert 0 < np.linalg.norm(second - first) < 0.05 * np.linalg.norm(first)
    with pytest.raises(InputError, match="calibrated for int8, not for fp8"):
        calibrate(half, precision="fp8", scales=bundle / "calibration/int8.json")


@pytest.mark.parametrize("within", [False, True])
def test_a_killed_run_goes_on_and_finds_the_same(
    within: bool, bundle: Path, questions: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two batches, or when part of the second was observed."""
    _int8(bundle, questions)
    expected = (bundle / "calibration/int8.json").read_bytes()
    save, run = Resume.save, observe.ObservingSession.run
    calls: list[str] = []
    saved: list[int] = []

    def at_once(self: Resume, observers: Any, done: int) -> None:
        save(self, observers, done)
        saved.append(len(calls))
        if not within:
            raise KeyboardInterrupt

    def counted(self: Any, component: str, *rest: Any) -> Any:
        calls.append(component)
        if len(saved) == 1 and len(calls) == saved[0] + 2:
            raise KeyboardInterrupt
        return run(self, component, *rest)

    monkeypatch.setattr(observe.ObservingSession, "run", counted)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(collect, "_SECONDS_BETWEEN", 0.0)
        killed.setattr(Resume, "save", at_once)
        _int8(bundle, questions)
    saved.clear()
    before = len(calls)
    assert list((bundle / "calibration").glob(".int8.json.resume-*"))
    _int8(bundle, questions)
    assert (bundle / "calibration/int8.json").read_bytes() == expected
    resumed = len(calls) - before
    calls.clear()
    _int8(bundle, questions)
    assert resumed < len(calls)
    assert not list((bundle / "calibration").glob(".*"))


def test_a_run_that_ends_before_its_graphs_are_entered_observes_nothing_again(
    bundle: Path, questions: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    _int8(bundle, questions)
    expected = _files(bundle)
    run = observe.ObservingSession.run
    calls: list[str] = []

    def counted(self: Any, component: str, *rest: Any) -> Any:
        calls.append(component)
        return run(self, component, *rest)

    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, "_SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(observe.ObservingSession, "run", counted)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("memvp_export.calibration.calibrate.enter", interrupted)
        _int8(bundle, questions)
    assert calls
    calls.clear()
    _int8(bundle, questions)
    assert calls == [] and _files(bundle) == expected


def test_finished_work_waits_for_whoever_changes_the_bundle(
    bundle: Path, questions: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = ExitStack()
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        held.close()

    monkeypatch.setattr("memvp_export.exporter.bundle.time", SimpleNamespace(sleep=wait))
    with held:
        held.enter_context(change(bundle))
        _int8(bundle, questions)
    assert len(waited) == 1 and "int8" in Bundle.open(bundle, verify=True).manifest["components"]["decoder"]["graphs"]


def test_a_full_disk_leaves_the_bundle_as_it_was(
    bundle: Path, questions: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _files(bundle)

    def full(*given: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publish.WeightsFile, "add", full)
    with pytest.raises(EnvironmentLack, match=r"disk.*full"):
        _int8(bundle, questions)
    after = {name: held for name, held in _files(bundle).items() if not name.endswith(".lock")}
    assert {name: held for name, held in before.items() if not name.endswith(".lock")} == after


def test_activations_that_are_not_finite_are_an_error(
    bundle: Path, questions: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = observe.OnnxSession.run

    def damaged(self: Any, component: str, inputs: Any, outputs: Any = None) -> Any:
        found = run(self, component, inputs, outputs)
        return {name: value * np.nan if "norm" in name else value for name, value in found.items()}

    monkeypatch.setattr(observe.OnnxSession, "run", damaged)
    with pytest.raises(InputError, match="not finite"):
        _int8(bundle, questions)


def test_samples_without_an_image_cannot_calibrate_the_tower(bundle: Path, questions: list[Request]) -> None:
    texts = [Request(one.id, one.text) for one in questions]
    with pytest.raises(InputError, match=r"never reached.*vision.*--exclude"):
        _int8(bundle, texts)
    report = _int8(bundle, texts, exclude=VISION)
    assert {row.component for row in report.layers if row.reason is None} == {"decoder"}


def test_a_budget_leaves_the_worst_layers_out(bundle: Path, questions: list[Request]) -> None:
    few = {"method": "max", "smooth_quant": False, "exclude": [*VISION, "*.layers.0.*", "*.self_attn.*"]}
    whole = _int8(bundle, questions, **few, sensitivity=True)
    limit = whole.damage.relative_l2 * 0.6
    within = _int8(bundle, questions, **few, budget=f"{limit:.6f}")
    left = [row for row in within.layers if row.reason == "left out for the budget"]
    assert left and within.damage.relative_l2 <= limit
    assert left[0].layer == whole.layers[0].layer
    alone = [row.alone for row in whole.layers if row.alone is not None]
    assert alone == sorted(alone, reverse=True)
    with pytest.raises(VerdictError, match="no layer can be quantized"):
        _int8(bundle, questions, **few, budget="1e-9")


def test_a_budget_in_points_is_of_answers(bundle: Path, questions: list[Request]) -> None:
    answers = open_pipeline(Bundle.open(bundle)).answer(questions)
    asked = [replace(one, answer=answer.text) for one, answer in zip(questions, answers, strict=True)]
    few = {"method": "max", "smooth_quant": False, "exclude": [*VISION, "*.layers.0.*", "*.self_attn.*"]}
    free = _int8(bundle, asked, **few, budget="100pt")
    tight = _int8(bundle, asked, **few, budget="1pt")
    assert not [row for row in free.layers if row.reason == "left out for the budget"]
    # Of twelve samples one that is lost would be eight points.
    drawn = open_samples(Bundle.open(bundle), asked, 12, 0).requests
    found = open_pipeline(Bundle.open(bundle), precision="int8").answer(drawn)
    assert [answer.text for answer in found] == [one.answer for one in drawn]
    assert tight.quantized <= free.quantized


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "entropy"}, "max, percentile, mse"),
        ({"rest": "int8"}, "fp32, fp16, bf16"),
        ({"budget": "half"}, "neither a relative error"),
        ({"exclude": ["*"]}, "no layer is left"),
        ({"include": ["nothing"]}, "no layer is called"),
        ({"samples": 0}, "at least 1"),
        ({"synthetic": True}, "not both"),
    ],
)
def test_wrong_use_is_refused_and_changes_nothing(
    options: dict[str, Any], message: str, bundle: Path, questions: list[Request]
) -> None:
    manifest = (bundle / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=message):
        _int8(bundle, questions, **options)
    assert (bundle / "manifest.json").read_bytes() == manifest


def test_synthetic_data_must_be_asked_for(bundle: Path) -> None:
    report = _int8(bundle, None, synthetic=True)
    assert report.data["samples"] == 12
