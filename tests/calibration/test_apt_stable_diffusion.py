"""APT on Stable Diffusion, calibrated the way it is used: through the scheduler, with guidance and noise of seeds."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export import export_onnx, read_source
from memvp_export.calibration import collect, image_samples, observe, samples
from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.collect import Resume
from memvp_export.calibration.damage import damage
from memvp_export.calibration.plan import plan_calibration
from memvp_export.calibration.remade import Remade
from memvp_export.calibration.samples import DEFAULT_IMAGES, open_samples
from memvp_export.examples.random_diffusion import write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Request
from memvp_export.exporter.errors import InputError, MissingPackage
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.check import check
from memvp_export.exporter.parity.report import Report
from memvp_export.exporter.scheduler import make_scheduler, read_scheduler
from memvp_export.exporter.text_to_image import ImageSettings

from .conftest import DIFFUSION

pytest.importorskip("diffusers")
STEPS = 3
TEXTS = [Request(f"t{i}", "a red ring " + "and so on " * (i % 4) + "abcdefghijkl"[i]) for i in range(12)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 bundle; tests must not change it."""
    folder = tmp_path_factory.mktemp("diffusion")
    write_source(folder, DIFFUSION)
    return export_onnx(read_source(folder), folder / "bundle", "fp32").root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, whose samples take few steps."""
    monkeypatch.setattr(image_samples, "SETTINGS", ImageSettings(steps=STEPS))
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def _lines(path: Path, **more: Any) -> Path:
    path.write_text("".join(json.dumps({"id": one.id, "text": one.text, **more}) + "\n" for one in TEXTS))
    return path


class Watching:
    """A session that keeps what it is called with."""

    def __init__(self, bundle: Bundle) -> None:
        self._session = OnnxSession(bundle, threads=1)
        self.calls: list[tuple[str, Mapping[str, np.ndarray]]] = []

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Any:
        self.calls.append((component, inputs))
        return self._session.run(component, inputs, outputs)


def test_samples_visit_the_schedule_with_guidance_from_noises_of_their_own(root: Path) -> None:
    bundle = Bundle.open(root)
    drawn, watching = open_samples(bundle, TEXTS[:8], None, 0), Watching(bundle)
    assert list(drawn.play(watching)) == [1, 2, 3, 4, 5, 6, 7, 8]
    config = read_scheduler(bundle.path(bundle.manifest["scheduler"]))
    expected = [int(step) for step in make_scheduler(config, STEPS).timesteps]
    unet = [inputs for component, inputs in watching.calls if component == "unet"]
    assert [int(inputs["timestep"][0]) for inputs in unet] == expected * 8 and len(expected) >= STEPS
    side = DIFFUSION.sample
    assert {inputs["sample"].shape for inputs in unet} == {(2, 4, side, side)}
    first = [inputs["sample"][0] for inputs in unet[:: len(expected)]]
    assert all(abs(np.corrcoef(one.ravel(), first[0].ravel())[0, 1]) < 0.2 for one in first[1:])
    assert sum(component == "vae_decoder" for component, _ in watching.calls) == 8
    # From where it was stopped, the same calls are made.
    again = Watching(bundle)
    assert list(drawn.play(again, 6)) == [7, 8]
    for (_, one), (_, other) in zip(watching.calls[-len(again.calls) :], again.calls, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    other_seed = Watching(bundle)
    next(iter(open_samples(bundle, TEXTS[:8], None, 1).play(other_seed)))
    assert not np.array_equal(other_seed.calls[1][1]["sample"], watching.calls[1][1]["sample"])


def test_what_samples_are_is_told(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(root)
    drawn = open_samples(bundle, _lines(tmp_path / "data.jsonl"), None, 0)
    assert drawn.digest == open_samples(bundle, TEXTS, None, 0).digest
    size = DIFFUSION.sample
    told = {"kind": "data.jsonl", "samples": 12, "steps": STEPS, "guidance": 7.5, "height": size, "width": size}
    assert {key: value for key, value in drawn.description().items() if key != "sha256"} == told
    monkeypatch.setattr(image_samples, "SETTINGS", ImageSettings(steps=STEPS + 1))
    assert drawn.digest != open_samples(bundle, TEXTS, None, 0).digest
    many = [Request(str(i), f"{i} rings") for i in range(DEFAULT_IMAGES + 3)]
    assert open_samples(bundle, many, None, 0).count == DEFAULT_IMAGES
    assert open_samples(bundle, None, None, 0).count == 3


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder"])
def test_an_error_anywhere_reaches_the_images(component: str, root: Path) -> None:
    class Disturbed(Watching):
        def run(self, name: str, *given: Any) -> Any:
            found = super().run(name, *given)
            return {key: 1.05 * array if name == component else array for key, array in found.items()}

    bundle = Bundle.open(root)
    trial = open_samples(bundle, TEXTS, None, 0).trial
    assert trial is not None
    recorded = Remade(trial, Watching(bundle))
    assert damage(recorded.replay(Watching(bundle), 2)).relative_l2 == 0
    found = recorded.replay(Disturbed(bundle))
    assert len(found) == trial.samples and {array.shape[1] for _, array, _ in found} == {3}
    assert 1e-4 < damage(found).relative_l2 < 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"budget": "0.5pt"}, "needs samples with answers; a relative error"),
        ({"synthetic": True, "data": None}, "no synthetic data for the family apt-stable-diffusion: give --data"),
        ({"data": [Request(str(i), "x", choices=("a", "b")) for i in range(9)]}, "'0' has choices"),
        ({"data": [Request(str(i), "x", Path("x.png")) for i in range(9)]}, "'0' has an image"),
    ],
)
def test_what_images_cannot_be_calibrated_on_is_refused(
    asked: dict[str, Any], message: str, root: Path, tmp_path: Path
) -> None:
    # That a request names its answer makes it no question.
    given = {"data": _lines(tmp_path / "data.jsonl", answer="x"), **asked}
    for do in (plan_calibration, calibrate):
        with pytest.raises(InputError, match=message):
            do(root, **given)


def test_without_diffusers_the_extra_is_named_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingPackage, match=r"memvp-export\[diffusion\]"):
        plan_calibration(root, TEXTS)


def test_layers_of_both_models_are_ranked_by_the_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_TRIED_IMAGES", 1)
    few: dict[str, Any] = {"method": "max", "smooth_quant": False, "rest": "fp32", "samples": 2}
    few["exclude"] = ["*attn1*", "*.mlp.fc1", "*_proj"]
    report = calibrate(root, TEXTS, "int8", **few)
    alone = {row.component: row.alone for row in report.layers if row.reason is None}
    assert alone.keys() == {"text_encoder", "unet"} and all(alone.values())
    assert report.damage is not None and max(row.alone or 0.0 for row in report.layers) < 2 * report.damage.relative_l2
    limit = 0.5 * report.damage.relative_l2
    within = calibrate(root, TEXTS, "int8", **few, budget=f"{limit:.6f}")
    left = [row.layer for row in within.layers if row.reason == "left out for the budget"]
    assert report.layers[0].layer in left and within.damage and within.damage.relative_l2 <= limit


def test_calls_of_components_serve_too(root: Path) -> None:
    bundle = Bundle.open(root)
    watching = Watching(bundle)
    next(iter(open_samples(bundle, TEXTS, None, 0).play(watching)))
    calls = [call for call in watching.calls if call[0] == "unet"] * 4
    report = calibrate(
        root, calls, "fp8", method="max", rest="fp32", smooth_quant=False, exclude=["text_model.*", "*attn1*"]
    )
    assert report.quantized and {row.component for row in report.layers if row.reason is None} == {"unet"}
    assert report.damage is not None and 0 < report.damage.relative_l2 < 0.5


def test_a_killed_run_goes_on_and_finds_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> bytes:
        calibrate(root, TEXTS, "int8", rest="fp32", samples=8, sensitivity=False, smooth_quant=False)
        return (root / "calibration/int8.json").read_bytes()

    expected, save = run(), Resume.save

    def killed(self: Resume, observers: Any, done: int) -> None:
        save(self, observers, done)
        if done == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(collect, "_SECONDS_BETWEEN", 0.0)
        patch.setattr(Resume, "save", killed)
        run()
    assert run() == expected and not list((root / "calibration").glob(".*"))


def test_a_step_that_is_watched_in_parts_is_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time step has no batch: it goes with every part."""

    def scales() -> dict[str, Any]:
        calibrate(root, TEXTS, "int8", rest="fp32", samples=8, sensitivity=False, smooth_quant=False, method="max")
        found: dict[str, Any] = json.loads((root / "calibration/int8.json").read_text())["layers"]
        return found

    whole, sizes = scales(), []
    run = observe.OnnxSession.run

    def seen(self: Any, component: str, inputs: Any, *rest: Any) -> Any:
        sizes.append((component, len(inputs.get("sample", ()))))
        return run(self, component, inputs, *rest)

    monkeypatch.setattr(observe.OnnxSession, "run", seen)
    monkeypatch.setattr(observe, "CHUNK_BYTES", 400_000)
    monkeypatch.setattr(observe, "_MOST_BYTES", 400_000)
    parted = scales()
    # Each row by itself, and none of them more than once.
    assert {size for component, size in sizes if component == "unet"} == {1}
    assert sum(component == "unet" for component, _ in sizes) == 8 * 2 * STEPS
    for name, layers in whole.items():
        clips = np.array([[layers[layer]["clip"], parted[name][layer]["clip"]] for layer in layers])
        assert np.allclose(*clips.T, rtol=1e-4) if len(clips) else not layers


@pytest.fixture(scope="module")
def judged(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Report]:
    """What `check` says of int8 whose ranges are divided by a number."""
    folder = tmp_path_factory.mktemp("judged")
    root, data = Path(shutil.copytree(made, folder / "bundle")), _lines(folder / "data.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_samples, "SETTINGS", ImageSettings(steps=STEPS))
        calibrate(root, data, "int8", rest="fp32", samples=8, sensitivity=False)
    scales = json.loads((root / "calibration/int8.json").read_text())

    def judge(divisor: float) -> Report:
        if divisor != 1:
            for layers in scales["layers"].values():
                for layer in layers.values():
                    layer["clip"] /= divisor
            (folder / "bad.json").write_text(json.dumps(scales))
            calibrate(root, precision="int8", rest="fp32", scales=folder / "bad.json")
        return check(root, precision="int8", data=data)

    return judge


def test_images_decide_whether_a_precision_is_accepted(judged: Callable[[float], Report], root: Path) -> None:
    report = judged(1)
    assert report.passed and report.verdict.startswith("INT8 ACCEPTED"), report.failures
    assert report.quality is not None and report.quality.image is not None and 0 < report.quality.image < 0.1
    assert (report.quality.questions, report.quality.accuracy) == (12, None)
    images = [result for result in report.outputs if result.output == "image"]
    size = DIFFUSION.sample
    assert [result.shape for result in images] == [(8, 3, size, size), (4, 3, size, size)]
    assert "of 12 images" in report.verdict and any("have no right answers" in note for note in report.notes)
    assert json.loads(json.dumps(report.to_dict()))["quality"]["image"] == report.quality.image
    bad = judged(20)
    assert not bad.passed and "the images' mean relative L2 is" in " ".join(bad.failures)
