"""A check of engines runs them, at every profile's ends too, and fails where any of it is wrong or was not run."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.bench.measure import preview_bench
from memvp_export.exporter.bundle import Bundle, change
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.engines import session as session_module
from memvp_export.exporter.engines.device_cache import DeviceCache
from memvp_export.exporter.errors import EnvironmentLack, InputError, MissingPackage
from memvp_export.exporter.parity.check import GOLDEN, GRAPH_ONLY, SOURCE, check
from memvp_export.exporter.parity.preview import preview_check
from memvp_export.exporter.parity.report import Report
from memvp_export.exporter.parity.thresholds import THRESHOLDS

from ..engines.fake_bundle import with_engines
from ..engines.fake_tensorrt import HERE, FakeRuntime


@pytest.fixture(scope="module")
def roots(bundle_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[Any, Path] = {}

    def make(precision: str, **options: Any) -> Path:
        key = (precision, *options.items())
        if key not in made:
            folder = tmp_path_factory.mktemp("engines")
            made[key] = with_engines(bundle_of(precision), folder, precision, **options)
        return made[key]

    return make


class Faulty(FakeRuntime):
    """Changes what an engine computes: edit(component, feed, results)."""

    def __init__(self, edit: Callable[[str, Mapping[str, np.ndarray], dict[str, np.ndarray]], None]) -> None:
        super().__init__()
        self.edit = edit

    def load(self, entry: Mapping[str, Any], path: Path) -> Any:
        trt, engine = super().load(entry, path)
        compute = engine.compute

        def edited(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            results = {name: array.copy() for name, array in compute(feed).items()}
            self.edit(entry["component"], feed, results)
            return results

        engine.compute = edited
        return trt, engine


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeRuntime], None]:
    return lambda runtime: monkeypatch.setattr(session_module, "process_runtime", lambda: runtime)


@pytest.fixture(scope="module")
def reports(roots: Callable[..., Path]) -> Callable[[str], Report]:
    made: dict[str, Report] = {}

    def of(precision: str) -> Report:
        if precision not in made:
            runtime = FakeRuntime()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(session_module, "process_runtime", lambda: runtime)
                made[precision] = check(roots(precision), "tensorrt")
            assert not runtime.cuda.live
        return made[precision]

    return of


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_sound_engines_pass(reports: Callable[[str], Report], precision: str) -> None:
    report = reports(precision)
    assert report.passed and not report.failures, report.failures
    assert report.kinds == [GOLDEN, GRAPH_ONLY] and report.backend == "tensorrt"
    assert report.environment["gpu"] == "NVIDIA H200"
    assert any("vision.fp" in note and "decoder.fp" in note for note in report.notes)
    assert [answer.id for answer in report.answers] == ["builtin-0", "builtin-1", "builtin-2"]
    assert report.image_effect is not None and report.image_effect > 0.1
    assert not any("true half" in result.case for result in report.outputs)


def test_answers_are_made_with_the_caches_of_run(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(FakeRuntime())
    monkeypatch.setattr(DeviceCache, "_joining", lambda self, new, columns: [])
    report = check(roots("fp32"), "tensorrt")
    assert not report.passed and not all(answer.passed for answer in report.answers)
    assert all(output.passed for output in report.outputs)


def test_every_end_of_every_profile_is_run(reports: Callable[[str], Report]) -> None:
    points = [r for r in reports("fp32").outputs if r.case.startswith("profile ")]
    assert {r.reference for r in points} == {GRAPH_ONLY}
    assert {(r.component, r.case) for r in points} == {
        ("vision", "profile default at its min: batch 1"),
        ("vision", "profile default at its opt: batch 2"),
        ("vision", "profile default at its max: batch 4"),
        ("decoder", "profile prefill at its min: batch 1, sequence 1, positions 1, past_sequence 0"),
        ("decoder", "profile prefill at its opt: batch 2, sequence 48, positions 1, past_sequence 0"),
        ("decoder", "profile prefill at its max: batch 4, sequence 48, positions 48, past_sequence 48"),
        ("decoder", "profile decode at its min: batch 1, sequence 1, positions 1, past_sequence 0"),
        ("decoder", "profile decode at its opt: batch 2, sequence 1, positions 1, past_sequence 47"),
        ("decoder", "profile decode at its max: batch 4, sequence 1, positions 1, past_sequence 95"),
    }
    assert {r.output for r in points if r.component == "decoder"} == {"logits", "present.*.key", "present.*.value"}


def test_what_an_engine_was_not_built_for_is_told(reports: Callable[[str], Report]) -> None:
    (note,) = (note for note in reports("fp32").notes if "was not compared" in note)
    assert note.startswith("decoder, long, was not compared: no profile") and "not [1, 128]" in note


def test_a_source_is_the_reference_of_the_points_too(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None], odd_source: Path
) -> None:
    use(FakeRuntime())
    report = check(roots("fp32"), "tensorrt", source=read_source(odd_source))
    assert report.passed and report.kinds == [GOLDEN, SOURCE]
    assert {r.reference for r in report.outputs if r.case.startswith("profile ")} == {SOURCE}


def long_past(component: str, feed: Mapping[str, np.ndarray], results: dict[str, np.ndarray]) -> None:
    if component == "decoder" and feed["past_key_values.0.key"].shape[2] == 95 and feed["input_ids"].shape[1] == 1:
        results["logits"] *= 1.01


def four_rows(component: str, feed: Mapping[str, np.ndarray], results: dict[str, np.ndarray]) -> None:
    if component == "vision" and len(feed["pixel_values"]) == 4:
        results["visual_memory"][3] = 0


def stale_cache(component: str, feed: Mapping[str, np.ndarray], results: dict[str, np.ndarray]) -> None:
    if component == "decoder":
        results["present.1.value"][:, :, -1] = 0


def forgotten_column(component: str, feed: Mapping[str, np.ndarray], results: dict[str, np.ndarray]) -> None:
    if component == "decoder":
        past = feed["attention_mask"].shape[1] - feed["input_ids"].shape[1]
        results["present.1.value"][:, :, past] = feed["past_key_values.1.value"][:, :, past]


def overflow(component: str, feed: Mapping[str, np.ndarray], results: dict[str, np.ndarray]) -> None:
    if component == "decoder" and feed["input_ids"].shape[1] == 48:
        results["logits"][0, 0, 0] = np.nan


FAULTS: dict[str, tuple[Any, str]] = {
    "a decode step at the longest past": (long_past, "decoder logits (profile decode at its max"),
    "the last row of a full batch": (four_rows, "vision visual_memory (rows)"),
    "a column of one cache": (stale_cache, "decoder present.*.value (rows: prefill)"),
    "an overflow at the longest prefill": (overflow, "decoder logits (profile prefill at its max"),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=list(FAULTS))
def test_a_fault_fails(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None], fault: Any, message: str
) -> None:
    use(Faulty(fault))
    report = check(roots("fp32"), "tensorrt")
    assert not report.passed and any(failure.startswith(message) for failure in report.failures), report.failures


def questions(folder: Path, *words: int) -> Path:
    """A data file of texts of so many words, with two tokens each."""
    lines = [{"id": str(count), "text": "so " * count} for count in words]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "data.jsonl"


def test_data_longer_than_a_prefill_is_run_in_pieces_and_what_no_engine_takes_is_left_out(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None], tmp_path: Path
) -> None:
    """The engine takes 48 new columns at once, 96 in all, of the model's 512."""
    data = questions(tmp_path, 35, 5, 30, 200)
    use(FakeRuntime())
    report = check(roots("fp32"), "tensorrt", data=data)
    assert report.passed, report.failures
    asked = [answer for answer in report.answers if answer.reference == GRAPH_ONLY]
    assert [answer.id for answer in asked] == ["35", "5", "30"] and all(answer.same for answer in asked)
    assert any(
        note.startswith("1 of 4 requests were not compared: they are longer than the 96") for note in report.notes
    )
    (logits,) = (r for r in report.outputs if (r.case, r.output) == ("data, requests 1 to 4", "logits"))
    assert logits.shape == (sum(len(answer.tokens) + 1 for answer in asked), 150)
    use(Faulty(long_prompt))
    report = check(roots("fp32"), "tensorrt", data=data)
    assert any(failure.startswith("decoder logits (data, requests 1 to 4)") for failure in report.failures)


def long_prompt(component: str, feed: Mapping[str, np.ndarray], results: dict[str, np.ndarray]) -> None:
    if component == "decoder" and feed["input_ids"].shape[1] == 48 and feed["attention_mask"].shape[1] > 48:
        results["logits"] *= 1.01


def test_data_of_which_nothing_fits_fails(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None], tmp_path: Path
) -> None:
    use(FakeRuntime())
    report = check(roots("fp32"), "tensorrt", data=questions(tmp_path, 200))
    assert not report.passed and report.failures == [
        "no request of the data could be compared: the engines were built for other shapes"
    ]


def test_answers_longer_than_an_engine_are_left_out(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None]
) -> None:
    use(FakeRuntime())
    report = check(roots("fp32", max_seq=16, max_batch=2), "tensorrt")
    assert report.passed and not report.answers
    assert any(
        "3 of 3 golden answers were not compared: they are longer than the 16 columns" in n for n in report.notes
    )
    compared = {r.case for r in report.outputs if r.component == "decoder" and r.reference == GOLDEN}
    # In chunks of 8 columns the golden rows pass through an engine for 16.
    assert not compared and any(r.case.startswith("profile prefill") for r in report.outputs)
    # The decoder was compared with nothing that came from the source, and the vision component was.
    assert report.graph_only == ["decoder"] and report.kinds == [GOLDEN, GRAPH_ONLY]
    assert "(graph parity only: decoder): worst" in report.verdict
    assert report.to_dict()["graph_only"] == ["decoder"]


def test_components_with_golden_evidence_are_not_called_graph_parity(reports: Callable[[str], Report]) -> None:
    assert reports("fp32").graph_only == [] and "graph parity only: " not in reports("fp32").verdict


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("parity.anew", "models.reference"):
        monkeypatch.delitem(sys.modules, f"memvp_export.exporter.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)


def test_without_pytorch_the_golden_samples_are_compared_and_a_note_says_what_was_not_run(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(FakeRuntime())
    root = roots("fp32")
    without_torch(monkeypatch)
    report = check(root, "tensorrt")
    assert report.passed and report.kinds == [GOLDEN]
    (note,) = (note for note in report.notes if "the ends of the engines' profiles were not run" in note)
    assert "torch is not installed" in note and "memvp-export[export]" in note


def test_without_pytorch_a_bundle_without_golden_samples_cannot_be_checked(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(FakeRuntime())
    root = Path(shutil.copytree(roots("fp32"), tmp_path / "bundle"))
    without_torch(monkeypatch)
    with change(root) as (writer, manifest):
        writer.write_manifest({**manifest, "samples": None})
    with pytest.raises(MissingPackage, match="torch is not installed"):
        check(root, "tensorrt")


def test_points_that_need_more_memory_than_there_is_run_on_fewer_rows_or_are_named(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(FakeRuntime())
    monkeypatch.setattr("memvp_export.exporter.parity.check.available_memory", lambda: 8 << 20)
    report = check(roots("fp32"), "tensorrt")
    assert report.passed
    cases = {r.case for r in report.outputs if r.component == "decoder"}
    assert not any(case.startswith("profile prefill at its max: batch 4") for case in cases)
    (fewer,) = (note for note in report.notes if "prefill at its max, was run on" in note)
    (rows,) = (case for case in cases if case.startswith("profile prefill at its max"))
    assert f"was run on {rows.split('batch ')[1][0]} of 4 rows" in fewer
    monkeypatch.setattr("memvp_export.exporter.parity.check.available_memory", lambda: 1 << 20)
    report = check(roots("fp32"), "tensorrt")
    assert report.passed and "decoder, profile prefill at its max, was not run" in " ".join(report.notes)
    assert not any("prefill at its max" in result.case for result in report.outputs)


def test_an_engine_of_one_component_alone_shows_no_parity(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None], tmp_path: Path
) -> None:
    use(FakeRuntime())
    root = Path(shutil.copytree(roots("fp32"), tmp_path / "bundle"))
    with change(root) as (writer, manifest):
        writer.write_manifest({**manifest, "engines": manifest["engines"][1:]})
    with pytest.raises(InputError, match="has no fp32 engine of 'vision'"):
        check(root, "tensorrt")


def test_without_a_gpu_or_engines_nothing_is_shown(
    roots: Callable[..., Path], bundle_of: Callable[[str], Path], use: Callable[[FakeRuntime], None]
) -> None:
    use(FakeRuntime(replace(HERE, gpu=None, why_no_gpu="no NVIDIA driver is installed.")))
    ways: list[Callable[[Path], object]] = [
        lambda root: check(root, "tensorrt"),
        lambda root: preview_check(Bundle.open(root), backend="tensorrt"),
        lambda root: preview_bench(root, ["tensorrt"]),
    ]
    for way in ways:
        with pytest.raises(EnvironmentLack, match="no GPU can be used here: no NVIDIA driver is installed"):
            way(roots("fp32"))
        with pytest.raises(InputError, match="has no fp32 engine; it has no engines"):
            way(bundle_of("fp32"))


def test_bfloat16_engines_are_judged_by_what_they_computed() -> None:
    report = Report("bundle", "memvp-llama", "tensorrt", "bf16", THRESHOLDS["bf16"], ["vision"])
    assert not report.on_twin and replace(report, backend="onnxruntime").on_twin


def test_a_dry_run_names_the_engines_and_their_profiles(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None]
) -> None:
    runtime = FakeRuntime()
    use(runtime)
    plan = preview_check(Bundle.open(roots("fp32")), backend="tensorrt")
    assert not runtime.cuda.live, "nothing of the GPU is kept"
    assert [line.split(":")[1] for line in plan["compared"] if " engine " in line] == [
        " profile default at its min, opt and max, with PyTorch",
        " profile prefill at its min, opt and max, with PyTorch",
        " profile decode at its min, opt and max, with PyTorch",
    ]


def test_engines_for_a_single_pass_and_with_whole_caches_are_checked_by_the_same_samples(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None]
) -> None:
    use(FakeRuntime())
    report = check(roots("fp32", single_pass=True), "tensorrt")
    assert report.passed, report.failures
    cases = {(r.case, r.output) for r in report.outputs if r.component == "decoder"}
    assert ("rows: single pass", "logits") in cases and {output for _, output in cases} == {"logits"}
    assert [len(answer.tokens) for answer in report.answers] == [1, 1, 1]
    assert not any("answers" in note for note in report.notes)
    use(FakeRuntime())
    report = check(roots("fp32", cache="concat"), "tensorrt")
    assert report.passed and len(report.answers) == 3, report.failures


def test_caches_in_place_are_checked_at_every_end_and_by_the_same_samples(
    roots: Callable[..., Path], use: Callable[[FakeRuntime], None]
) -> None:
    use(FakeRuntime())
    report = check(roots("fp32", cache="in_place", capacity=96), "tensorrt")
    assert report.passed and len(report.answers) == 3, report.failures
    cases = {r.case for r in report.outputs if r.component == "decoder" and r.output.startswith("present")}
    assert {"rows: prefill", "rows: chunks", "rows: prefill, then steps"} <= cases
    assert any("past_sequence 95" in case for case in cases), cases
    use(Faulty(forgotten_column))
    report = check(roots("fp32", cache="in_place", capacity=96), "tensorrt")
    assert any(failure.startswith("decoder present.*.value (rows: chunks)") for failure in report.failures)


def test_the_engines_of_a_lowering_are_checked(roots: Callable[..., Path], use: Callable[[FakeRuntime], None]) -> None:
    use(FakeRuntime())
    report = check(roots("fp32"), "tensorrt", lowering="native")
    assert report.passed and "decoder.fp32.engine (native)" in report.environment["engines"]
    with pytest.raises(InputError, match="no fp32 engine of decoder with plugin lowering"):
        check(roots("fp32"), "tensorrt", lowering="plugin")
