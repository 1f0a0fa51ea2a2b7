"""What a user can get wrong, at the command line: one message that names it, an exit code, and the bundle as it was."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.data import Request


@dataclass(frozen=True)
class Ground:
    """A folder to prepare in, the bundle that is calibrated, and questions that suit it."""

    folder: Path
    bundle: Path
    questions: list[Request]
    patch: pytest.MonkeyPatch


Words = list[Any]


def _data(ground: Ground, lines: list[dict[str, Any]]) -> Words:
    path = ground.folder / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["--data", path]


def _lines(ground: Ground, **more: Any) -> list[dict[str, Any]]:
    return [{"id": one.id, "text": one.text, "image": str(one.image)} | more for one in ground.questions]


def too_few(ground: Ground) -> Words:
    return _data(ground, _lines(ground)[:7])


def another_familys_requests(ground: Ground) -> Words:
    return _data(ground, _lines(ground, image_2=str(ground.questions[0].image)))


def another_familys_arrays(ground: Ground) -> Words:
    (ground.folder / "arrays/model").mkdir(parents=True)
    for number in range(9):
        np.savez(ground.folder / f"arrays/model/{number}.npz", pixel_values=np.zeros((1, 3, 8, 8), np.float32))
    return ["--data", ground.folder / "arrays"]


def arrays_of_another_shape(ground: Ground) -> Words:
    (ground.folder / "arrays/vision").mkdir(parents=True)
    arrays = {"pixel_values": np.zeros((1, 3, 8, 8), np.float32), "image_indicator": np.ones(1, np.float32)}
    for number in range(9):
        np.savez(ground.folder / f"arrays/vision/{number}.npz", **arrays)  # type: ignore[arg-type]
    return ["--data", ground.folder / "arrays"]


def arrays_of_other_names(ground: Ground) -> Words:
    (ground.folder / "arrays/vision").mkdir(parents=True)
    for number in range(9):
        np.savez(ground.folder / f"arrays/vision/{number}.npz", pixels=np.zeros((1, 3, 8, 8), np.float32))
    return ["--data", ground.folder / "arrays"]


def damaged_weights(ground: Ground) -> Words:
    data = ground.bundle / "graphs/vision.onnx.data"
    data.write_bytes(b"\xff" * data.stat().st_size)
    return _data(ground, _lines(ground))


def no_samples_of_its_own(ground: Ground) -> Words:
    ground.patch.setattr("memvp_export.calibration.samples.read_samples", lambda bundle: [])
    return []


def a_scale_file_of_another_model(ground: Ground) -> Words:
    scales = json.loads((ground.bundle / "calibration/int8.json").read_text())
    scales["model"]["weights"] = "0" * 64
    (ground.folder / "scales.json").write_text(json.dumps(scales))
    return ["--scales", ground.folder / "scales.json"]


def a_scale_file_of_another_mode(ground: Ground) -> Words:
    return ["--scales", ground.bundle / "calibration/int8.json", "--precision", "fp8"]


def no_scale_file(ground: Ground) -> Words:
    return ["--scales", ground.bundle / "manifest.json"]


def points_without_answers(ground: Ground) -> Words:
    return [*_data(ground, _lines(ground)), "--budget", "0.5pt"]


def a_pattern_of_nothing(ground: Ground) -> Words:
    return [*_data(ground, _lines(ground)), "--exclude", "lm_haed"]


def a_missing_image(ground: Ground) -> Words:
    return _data(ground, _lines(ground, image="not-there.png"))


def a_full_disk(ground: Ground) -> Words:
    usage = shutil.disk_usage(ground.folder)
    ground.patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    return _data(ground, _lines(ground))


def _full(*given: Any, **more: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def a_disk_that_fills_with_graphs(ground: Ground) -> Words:
    ground.patch.setattr("memvp_export.calibration.publish.WeightsFile.add", _full)
    return [*_data(ground, _lines(ground)), "--no-sensitivity"]


def a_disk_that_fills_with_states(ground: Ground) -> Words:
    ground.patch.setattr("memvp_export.calibration.collect._SECONDS_BETWEEN", 0.0)
    ground.patch.setattr("memvp_export.calibration.collect.np.savez", _full)
    return _data(ground, _lines(ground))


# What is wrong, the exit code, and what the message must name.
CASES: dict[Callable[[Ground], Words], tuple[int, str]] = {
    too_few: (2, "has 7 samples; calibration needs at least 8"),
    another_familys_requests: (2, "two images"),
    another_familys_arrays: (2, "vision/*.npz"),
    arrays_of_another_shape: (2, "cannot run vision on these inputs"),
    arrays_of_other_names: (2, "vision needs the input 'pixel_values'"),
    damaged_weights: (2, "not finite"),
    no_samples_of_its_own: (2, "give --data"),
    a_scale_file_of_another_model: (2, "a model of other weights"),
    a_scale_file_of_another_mode: (2, "calibrated for int8, not for fp8"),
    no_scale_file: (2, "no scale file"),
    points_without_answers: (2, "needs samples with answers"),
    a_pattern_of_nothing: (2, "lm_haed"),
    a_missing_image: (2, "not-there.png"),
    a_full_disk: (3, "disk is too small"),
    a_disk_that_fills_with_graphs: (3, "is full"),
    a_disk_that_fills_with_states: (3, "No space left"),
}


@pytest.mark.parametrize("prepare", CASES, ids=lambda prepare: str(prepare.__name__))
def test_bad_input_is_named_and_changes_nothing(
    prepare: Callable[[Ground], Words],
    quantized: tuple[Path, Any],
    questions: list[Request],
    command: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = Path(shutil.copytree(quantized[0], tmp_path / "bundle"))
    words = prepare(Ground(tmp_path, bundle, questions, monkeypatch))
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    result = command("calibrate", bundle, "--rest", "fp32", *words)
    code, message = CASES[prepare]
    assert (result.code, message in result.err) == (code, True), result.err
    left = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert {path: held for path, held in before.items() if path.suffix != ".lock"} == left
