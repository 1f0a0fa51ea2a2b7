"""What can be calibrated on."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from memvp_export.calibration.samples import open_samples
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Request
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.onnx_session import OnnxSession


@pytest.fixture
def opened(bundle_of: Callable[[str], Path]) -> Bundle:
    return Bundle.open(bundle_of("fp32"))


def _calls(bundle: Bundle, count: int) -> list[tuple[str, dict[str, np.ndarray]]]:
    dims = bundle.manifest["components"]["vision"]["inputs"][0]["dims"]
    generator = np.random.default_rng(0)
    return [
        (
            "vision",
            {
                "pixel_values": generator.standard_normal((1, *dims[1:])).astype(np.float32),
                "image_indicator": np.ones(1, np.float32),
            },
        )
        for _ in range(count)
    ]


def test_a_seed_draws_the_same_samples(opened: Bundle, questions: list[Request]) -> None:
    first, second, third = (open_samples(opened, questions, 10, seed) for seed in (0, 0, 1))
    assert first.count == 10 and first.digest == second.digest != third.digest
    assert [r.id for r in first.requests] == sorted((r.id for r in first.requests), key=int)


def test_the_digest_is_of_contents(opened: Bundle, questions: list[Request], tmp_path: Path) -> None:
    lines = [{"id": r.id, "text": r.text, "image": str(r.image)} for r in questions]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (
        open_samples(opened, tmp_path / "data.jsonl", None, 0).digest == open_samples(opened, questions, None, 0).digest
    )
    other = [Request(r.id, r.text + "!", r.image) for r in questions]
    assert open_samples(opened, other, None, 0).digest != open_samples(opened, questions, None, 0).digest


def test_requests_run_generation_with_its_steps(opened: Bundle, questions: list[Request]) -> None:
    plain = OnnxSession(opened)
    columns: list[int] = []

    class Watching:
        def run(self, component, inputs, outputs=None):  # type: ignore[no-untyped-def]
            if component == "decoder":
                columns.append(inputs["past_key_values.0.key"].shape[2])
            return plain.run(component, inputs, outputs)

    samples = open_samples(opened, questions, None, 0)
    assert list(samples.play(Watching(), 0)) == [8, 16, 20]
    assert 0 in columns and max(columns) > 1
    assert list(samples.play(plain, 16)) == [20]


def test_no_more_run_at_once_than_the_model_takes(opened: Bundle, questions: list[Request]) -> None:
    manifest = deepcopy(dict(opened.manifest))
    manifest["components"]["decoder"]["ranges"]["batch"] = [1, 3]
    small = replace(opened, manifest=manifest)
    samples = open_samples(small, questions[:8], None, 0)
    assert list(samples.play(OnnxSession(opened))) == [3, 6, 8]
    assert list(samples.play(OnnxSession(opened), 4, batch=2)) == [6, 8]


def test_arrays_run_as_they_are(opened: Bundle, tmp_path: Path) -> None:
    calls = _calls(opened, 9)
    (tmp_path / "vision").mkdir()
    for number, (_, arrays) in enumerate(calls):
        np.savez(tmp_path / "vision" / f"{number}.npz", **arrays)  # type: ignore[arg-type]
    session = OnnxSession(opened)
    for data in (calls, tmp_path):
        samples = open_samples(opened, data, 8, 0)
        assert samples.count == 8 and list(samples.play(session, 6)) == [7, 8]


def test_data_of_another_model_is_refused(opened: Bundle) -> None:
    calls = [("vision", {"pixels": np.zeros((1, 3, 8, 8), np.float32)})] * 8
    with pytest.raises(InputError, match="pixel_values"):
        list(open_samples(opened, calls, None, 0).play(OnnxSession(opened), 0))


def test_too_few_samples_are_refused(opened: Bundle, questions: list[Request]) -> None:
    with pytest.raises(InputError, match=r"has 7 samples.*at least 8"):
        open_samples(opened, questions[:7], None, 0)


def test_what_is_no_data_is_refused(opened: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vision/\*\.npz"):
        open_samples(opened, tmp_path, None, 0)
    with pytest.raises(InputError, match="is not a file"):
        open_samples(opened, tmp_path / "none.jsonl", None, 0)
    with pytest.raises(InputError, match="Requests, or tuples"):
        open_samples(opened, [1] * 8, None, 0)  # type: ignore[list-item]


def test_without_data_the_bundles_own_are_used(opened: Bundle) -> None:
    samples = open_samples(opened, None, None, 0)
    assert samples.kind == "the bundle's own questions" and samples.count > 0
