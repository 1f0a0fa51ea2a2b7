"""The bench on the odd bundle: what really runs, on a clock that the tests turn."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from memvp_export.exporter.bench import lanes, measure, torch_session
from memvp_export.exporter.bench.inputs import feed_of, filled_cache, golden_arrays, inputs_of
from memvp_export.exporter.bench.loads import Load
from memvp_export.exporter.bench.measure import bench, preview_bench
from memvp_export.exporter.bench.options import Options
from memvp_export.exporter.bench.report import BenchReport
from memvp_export.exporter.bundle import Bundle, change
from memvp_export.exporter.encoder_decoder import EncoderDecoder
from memvp_export.exporter.errors import EnvironmentLack, InputError, MissingPackage
from memvp_export.exporter.machine import describe
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.session import Timing
from memvp_export.exporter.settings import Settings

QUICK = Options(batch=3, prompt_tokens=7, past=5, warmup=1, iterations=20, duration=0)
ORT = ("onnxruntime",)


def test_the_shapes_that_are_asked_for_are_those_that_run(bundle: Bundle, fake: Callable) -> None:
    opened = fake({bundle.root: lambda _: 0.01})
    report = bench(bundle, ORT, options=QUICK)
    shapes: dict[tuple[str, int, int, int], int] = {}
    for component, inputs in opened[bundle.root].calls:
        past = inputs["past_key_values.0.key"].shape[2] if component == "decoder" else 0
        columns = inputs["input_ids"].shape[1] if component == "decoder" else 0
        if component == "decoder":
            assert inputs["attention_mask"].shape == (len(inputs["input_ids"]), past + columns)
            assert (inputs["position_ids"] == np.arange(past, past + columns)).all()
            assert (inputs["logits_positions"] == columns - 1).all()
        key = (component, len(next(iter(inputs.values()))), columns, past)
        shapes[key] = shapes.get(key, 0) + 1
    # The first call, one of warm-up, twenty measured; and one prefill that fills the cache of a decode step.
    assert shapes == {
        **{("vision", batch, 0, 0): 22 for batch in (1, 3)},
        **{("decoder", batch, 7, 0): 22 for batch in (1, 3)},
        **{("decoder", batch, 1, 5): 22 for batch in (1, 3)},
        **{("decoder", batch, 5, 0): 1 for batch in (1, 3)},
    }
    assert [(result.load.stage, result.load.mode, result.load.batch) for result in report.results] == [
        (stage, mode, batch)
        for stage in ("vision", "prefill", "decode")
        for mode, batch in (("latency", 1), ("throughput", 3))
    ]
    assert all(result.figures.calls == 20 for result in report.results)
    assert opened[bundle.root].closed


def test_a_decode_step_has_the_past_of_a_real_prefill(bundle: Bundle, fake: Callable) -> None:
    opened = fake({bundle.root: lambda _: 0.01})
    bench(bundle, ORT, options=QUICK)
    calls = [inputs for component, inputs in opened[bundle.root].calls if component == "decoder"]
    filling = next(inputs for inputs in calls if inputs["input_ids"].shape == (3, 5))
    step = next(inputs for inputs in calls if inputs["input_ids"].shape == (3, 1))
    present = OnnxSession(bundle).run("decoder", filling)
    for name in ("key", "value"):
        assert np.abs(step[f"past_key_values.2.{name}"]).max() > 0
        np.testing.assert_array_equal(step[f"past_key_values.2.{name}"], present[f"present.2.{name}"])


def test_a_long_past_is_filled_in_the_calls_that_the_graph_takes(bundle: Bundle) -> None:
    session, component = OnnxSession(bundle), bundle.manifest["components"]["decoder"]
    load, known = Load("decode", "decoder", "latency", 2, 1, 9), golden_arrays(bundle)
    known["input_ids"] = np.full(1, 7)
    whole, parts = (filled_cache(session, component, load, chunk, "fp32", known) for chunk in (9, 4))
    assert whole.length == parts.length == 9
    for name, array in whole.inputs().items():
        np.testing.assert_allclose(parts.inputs()[name], array, atol=1e-5)


def test_inputs_are_the_golden_ones_or_else_valid(bundle: Bundle) -> None:
    vision, decoder = (bundle.manifest["components"][name] for name in ("vision", "decoder"))
    known = golden_arrays(bundle)
    load = Load("vision", "vision", "throughput", 6)
    pixels = inputs_of(vision, load, 0, 0, "fp32", known)["pixel_values"]
    np.testing.assert_array_equal(pixels, known["pixel_values"][[0, 1, 2, 3, 0, 1]])
    made = inputs_of(decoder, load, 2, 8, "fp16", {})
    assert made["visual_memory"].dtype == np.float16 and made["visual_memory"].astype(np.float32).std() > 0.5
    assert made["input_ids"].dtype == np.int64 and 0 <= made["input_ids"].min() <= made["input_ids"].max() < 150
    assert len(np.unique(made["input_ids"])) > 10 and made["attention_mask"].tolist() == [[1] * 10] * 6
    bf16 = inputs_of(decoder, load, 0, 8, "bf16", known)["visual_memory"]
    assert bf16.dtype.name == "bfloat16" and bf16.shape == (6, *known["visual_memory"].shape[1:])


def test_a_decoder_looks_at_as_much_text_as_the_load_says() -> None:
    ports = {"input_ids": "sequence", "encoder_attention_mask": "encoder_sequence"}
    decoder = {
        "inputs": [{"name": name, "dtype": "int64", "dims": ["batch", dim]} for name, dim in ports.items()],
        "outputs": [{"name": "logits", "dtype": "float32", "dims": ["batch", "sequence", 9]}],
        "ranges": {"batch": (1, 2), "sequence": (1, 40), "past_sequence": (0, 39), "encoder_sequence": (1, 20)},
    }
    made = inputs_of(decoder, Load("decode", "decoder", "latency", 2, 1, 5, 13), 5, 1, "fp32", {})
    assert {name: array.shape for name, array in made.items()} == {
        "input_ids": (2, 1),
        "encoder_attention_mask": (2, 13),
    }


def test_the_first_call_stands_apart_and_rates_follow_from_the_mean(bundle: Bundle, fake: Callable) -> None:
    fake({bundle.root: lambda call: 5.0 if call == 0 else 0.02})
    vision, many, prefill, *_ = bench(bundle, ORT, options=QUICK).results
    assert vision.figures.first == pytest.approx(5.0) and many.figures.first == pytest.approx(0.02)
    assert vision.figures.mean == pytest.approx(0.02)
    assert vision.per_second == pytest.approx(50) and many.per_second == pytest.approx(150)
    assert prefill.per_second == pytest.approx(350)


def test_a_drifting_session_is_warned_of_and_a_steady_one_is_not(bundle: Bundle, fake: Callable) -> None:
    only = Options(batch=1, stages=("vision",), iterations=40, duration=0)
    fake({bundle.root: lambda call: 0.01 * (1.02**call)})
    report = bench(bundle, ORT, options=only)
    assert len(report.warnings) == 1 and "vision" in report.warnings[0] and "later half" in report.warnings[0]
    assert "1 of 1 measurements are not stable" in report.verdict
    fake({bundle.root: lambda call: 0.01 + 0.0002 * (call % 3)})
    report = bench(bundle, ORT, options=only)
    assert report.warnings == [] and "not stable" not in report.verdict


def test_two_bundles_are_measured_in_turns_and_compared(bundle: Bundle, fake: Callable, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundle.root, other)
    fake({bundle.root: lambda _: 0.01, other: lambda _: 0.03})
    some = replace(QUICK, stages=("vision", "decode"))
    report = bench(bundle, ORT, options=some, compare=other)
    assert [lane["name"] for lane in report.lanes] == ["fp32 onnxruntime", "other onnxruntime"]
    assert report.compared_with == str(other)
    assert [one.ratio for one in report.compared] == pytest.approx([3.0] * 4)
    first, second, *_ = report.results
    assert first.speedup == 1 and second.speedup == pytest.approx(1 / 3)
    backwards = bench(other, ORT, options=some, compare=bundle.root)
    assert [one.ratio for one in backwards.compared] == pytest.approx([1 / 3] * 4)


def test_an_earlier_report_is_compared_and_what_differs_is_said(bundle: Bundle, fake: Callable, tmp_path: Path) -> None:
    fake({bundle.root: lambda _: 0.03})
    earlier = bench(bundle, ORT, options=QUICK)
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(earlier.to_dict()))
    fake({bundle.root: lambda _: 0.01})
    report = bench(bundle, ORT, options=QUICK, compare=path)
    assert [one.ratio for one in report.compared] == pytest.approx([3.0] * 6) and report.notes == []
    path.write_text(json.dumps(earlier.to_dict() | {"machine": describe() | {"cpu": "abacus"}}))
    (note,) = bench(bundle, ORT, options=QUICK, compare=path).notes
    assert "another machine" in note and "cpu abacus, now" in note
    notes = bench(
        bundle, ORT, options=Options(stages=("vision",), batch=2, iterations=1, duration=0), compare=path
    ).notes
    assert any("1 of 2 measurements have no counterpart" in note for note in notes)


def test_sessions_that_know_where_the_time_went_are_asked(bundle: Bundle, fake: Callable) -> None:
    opened = fake({bundle.root: lambda _: 0.01})
    plain = bench(bundle, ORT, options=QUICK)
    assert all(result.figures.parts is None and result.gpu_speedup is None for result in plain.results)
    fake_type = type(opened[bundle.root])
    try:
        fake_type.timed_run = lambda self, component, inputs: (  # type: ignore[attr-defined]
            self.run(component, inputs),
            Timing(0.001, 0.002, 0.006, 0.001),
        )
        report = bench(bundle, ORT, options=QUICK)
    finally:
        del fake_type.timed_run  # type: ignore[attr-defined]
    for result in report.results:
        assert result.figures.parts == pytest.approx({"host": 0.001, "h2d": 0.002, "gpu": 0.006, "d2h": 0.001})
        assert result.gpu_speedup == 1


def test_whole_answers_have_all_their_tokens(bundle: Bundle, fake: Callable) -> None:
    opened = fake({bundle.root: lambda _: 0.01})
    options = Options(batch=3, new_tokens=4, stages=("answer",), warmup=0, iterations=2, duration=0)
    one, many = bench(bundle, ORT, options=options).results
    steps = [inputs["input_ids"].shape for component, inputs in opened[bundle.root].calls if component == "decoder"]
    # One prefill of the real prompts and three steps for each answer: the first and two measured ones.
    assert sum(shape == (1, 1) for shape in steps) == sum(shape == (3, 1) for shape in steps) == 9
    # Vision, a prefill and three steps of 10 ms for four tokens.
    assert one.per_second == pytest.approx(4 / 0.05) and many.per_second == pytest.approx(12 / 0.05)


def test_answers_are_measured_with_the_beams_that_they_are_made_with(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(bundle.root, tmp_path / "copy"))
    with change(root) as (writer, manifest):
        manifest["generation"] |= {"num_beams": 5, "min_length": 6, "no_repeat_ngram_size": 3}
        writer.write_manifest(manifest)
    options = Options(batch=3, new_tokens=4, stages=("answer",))
    plan = preview_bench(root, ORT, options=options)
    assert plan["loads"][1] == "throughput: answer, batch 3, new tokens: 4, beams: 5"

    asked: list[tuple[int, Settings]] = []
    pipeline = object.__new__(EncoderDecoder)
    pipeline.max_batch, pipeline.tokenizer = 8, SimpleNamespace(eos=2)  # type: ignore[assignment]
    pipeline.answer = lambda requests, settings: asked.append((len(requests), settings))  # type: ignore
    rules: list[dict] = []

    def made(session: object, manifest: dict, *rest: object) -> EncoderDecoder:
        rules.append(manifest["generation"])
        return pipeline

    monkeypatch.setattr(measure, "pipeline_from", made)
    (lane,), _ = lanes.lanes_of([Bundle.open(root)], ORT, None)
    measure._answer(lane, Load("answer", "decoder", "throughput", 3, 4, beams=5))()
    assert asked == [(3, Settings(max_new_tokens=4, batch=1, beams=5))]
    # What ends an answer is no token here: a rule about it would ban another one, the other rules hold.
    assert [(rule["min_length"], rule["no_repeat_ngram_size"]) for rule in rules] == [(0, 3)]


def test_a_backend_that_fails_is_left_out_and_the_others_keep_their_results(
    bundle: Bundle, fake: Callable, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(bundle.root, tmp_path / "other"))

    def full(call: int) -> float:
        # In the middle of the second load.
        if call >= 40:
            raise EnvironmentLack("the GPU is full.")
        return 0.01

    opened = fake({bundle.root: lambda _: 0.01, other: full})
    report = bench(bundle, ORT, options=QUICK, compare=other)
    assert list(Counter(result.load for result in report.results).values()) == [2, 1, 1, 1, 1, 1]
    (note,) = (note for note in report.notes if "left out" in note)
    assert note.startswith("other onnxruntime is left out from throughput: vision, batch 3 on: the GPU is full.")
    assert opened[other].closed and [lane["name"] for lane in report.lanes] == ["fp32 onnxruntime", "other onnxruntime"]
    assert len(report.compared) == 1 and report.verdict.startswith("measured")


def test_a_lane_that_fails_before_its_first_call_is_left_out_too(
    bundle: Bundle, fake: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(bundle.root, tmp_path / "other"))
    opened = fake({bundle.root: lambda _: 0.01, other: lambda _: 0.01})

    def feed(session: object, *rest: object) -> object:
        if session is opened[other]:
            raise EnvironmentLack("it cannot be loaded here.")
        return feed_of(session, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("memvp_export.exporter.bench.measure.feed_of", feed)
    report = bench(bundle, ORT, options=QUICK, compare=other)
    assert {result.lane for result in report.results} == {"fp32 onnxruntime"} and len(report.results) == 6
    fake({bundle.root: lambda _: 0.01})
    monkeypatch.setattr("memvp_export.exporter.bench.measure.feed_of", failing)
    with pytest.raises(EnvironmentLack, match="it cannot be loaded here"):
        bench(bundle, ORT, options=QUICK)


def failing(*arguments: object) -> object:
    raise EnvironmentLack("it cannot be loaded here.")


def test_torch_and_onnxruntime_run_side_by_side(bundle: Bundle) -> None:
    options = Options(batch=2, prompt_tokens=4, warmup=0, iterations=1, duration=0)
    report = bench(bundle, ("torch", "onnxruntime"), options=options)
    assert [result.lane for result in report.results] == ["torch", "onnxruntime"] * 6
    assert report.results[0].speedup == 1 and all(result.figures.median > 0 for result in report.results)
    assert "PyTorch eager in fp32 on cpu" in report.lanes[0]["runs"] and report.lanes[0]["threads"] >= 1
    assert report.machine["onnxruntime"] and report.lanes[1]["digest"] == bundle.manifest["digest"]


def test_torch_alone_measures_bf16_on_a_cpu(bundle: Bundle) -> None:
    plan = preview_bench(bundle, precision="bf16", options=QUICK)
    assert [lane["name"] for lane in plan["lanes"]] == ["torch"]
    assert any("onnxruntime is left out" in note and "bfloat16" in note for note in plan["notes"])
    with pytest.raises(EnvironmentLack, match="no bfloat16"):
        bench(bundle, ORT, "bf16", options=QUICK)


def test_the_plan_says_what_will_be_measured_and_runs_nothing(bundle: Bundle, fake: Callable) -> None:
    opened = fake({bundle.root: lambda _: 0.01})
    plan = preview_bench(bundle, ORT, options=QUICK)
    assert len(plan["loads"]) == 6 and "latency: decode, batch 1, 1 token after 5" in plan["loads"]
    assert opened[bundle.root].calls == [] and json.loads(json.dumps(plan)) == plan


def test_what_cannot_be_measured_is_said(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="backend 'tensorflow' cannot be measured"):
        bench(bundle, ("tensorflow",))
    with pytest.raises(InputError, match=r"no fp32 engine.*memvp-export trt"):
        bench(bundle, ("tensorrt",))
    bare = Bundle(bundle.root, {**bundle.manifest, "samples": None})
    with pytest.raises(InputError, match="carries no questions"):
        bench(bare, ORT, options=Options(new_tokens=2))
    monkeypatch.setattr(torch_session, "available_memory", lambda: 1000)
    with pytest.raises(EnvironmentLack, match=r"PyTorch would hold .* MB of weights"):
        bench(bundle, ("torch",))
    plan = preview_bench(bundle, options=QUICK)
    assert [lane["name"] for lane in plan["lanes"]] == ["onnxruntime"] and any(
        "torch is left out" in n for n in plan["notes"]
    )
    monkeypatch.setattr(lanes, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"onnxruntime is not installed.*\[cpu\]"):
        bench(bundle, ORT)
    with pytest.raises(EnvironmentLack, match="nothing can be measured here"):
        preview_bench(bundle)
    with pytest.raises(InputError, match="does not exist"):
        bench(bundle, ORT, compare=tmp_path / "none.json")


_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from memvp_export.exporter.bench.measure import bench
from memvp_export.exporter.bench.options import Options
report = bench(sys.argv[1], options=Options(batch=1, warmup=0, iterations=1, duration=0))
print([lane["name"] for lane in report.lanes], report.notes)
"""


def test_it_works_without_torch(bundle: Bundle) -> None:
    command = [sys.executable, "-c", _WITHOUT_TORCH, str(bundle.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['onnxruntime'] ") and "torch is not installed" in done.stdout


def test_a_report_survives_json(bundle: Bundle, fake: Callable) -> None:
    fake({bundle.root: lambda call: 0.01 + 0.001 * (call % 7)})
    report = bench(bundle, ORT, options=QUICK)
    again = BenchReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report and again.verdict == report.verdict
