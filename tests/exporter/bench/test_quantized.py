"""A quantized precision beside the plain one: does the smaller type pay?"""

import shutil
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.bench.figures import Figures
from memvp_export.exporter.bench.lanes import lanes_of
from memvp_export.exporter.bench.loads import Load
from memvp_export.exporter.bench.measure import bench
from memvp_export.exporter.bench.options import Options
from memvp_export.exporter.bench.quantized import slower_notes
from memvp_export.exporter.bench.report import BenchReport, Result
from memvp_export.exporter.bundle import Bundle

ORT = ("onnxruntime",)
VISION, DECODE = Load("vision", "vision", "latency", 1), Load("decode", "decoder", "latency", 1, 1, 5)


def _figures(median: float) -> Figures:
    return Figures(40, 1.0, median, median, median, {"p50": median}, 0.01, 0.02, None)


def _lane(precision: str, **more: Any) -> dict[str, Any]:
    return {"name": f"trt {precision}", "backend": "tensorrt", "bundle": "b", "precision": precision, **more}


def _report(lanes: list[dict[str, Any]], medians: dict[tuple[str, Load], float]) -> BenchReport:
    results = [Result(lane, load, _figures(median), 1.0) for (lane, load), median in medians.items()]
    return BenchReport({}, [], {}, lanes, results)


def test_loads_at_which_the_smaller_type_does_not_pay_are_named() -> None:
    times = {("trt int8", VISION): 0.004, ("trt int8", DECODE): 0.002}
    times |= {("trt fp16", VISION): 0.003, ("trt fp16", DECODE): 0.003}
    (note,) = slower_notes(_report([_lane("int8"), _lane("fp16")], times))
    assert note.startswith("trt int8 is not faster than trt fp16 at 1 of 2 loads: latency: vision")
    assert "4 ms against 3" in note and "decode" not in note


def test_a_faster_one_gets_no_note() -> None:
    times = {("trt int8", VISION): 0.001, ("trt fp16", VISION): 0.003}
    assert slower_notes(_report([_lane("int8"), _lane("fp16")], times)) == []


def test_only_lanes_of_one_place_are_compared() -> None:
    times = {("trt int8", VISION): 0.004, ("trt fp16", VISION): 0.003}
    assert slower_notes(_report([_lane("int8"), _lane("fp16", bundle="other")], times)) == []
    assert slower_notes(_report([_lane("int8"), _lane("fp16", backend="onnxruntime")], times)) == []


def test_the_plain_precision_is_measured_beside_it(quantized: tuple[Path, Any]) -> None:
    options = Options(batch=1, stages=("vision",), warmup=0, iterations=1, duration=0)
    report = bench(quantized[0], ORT, "int8", options)
    assert [lane["name"] for lane in report.lanes] == ["onnxruntime int8", "onnxruntime fp32"]
    assert [lane["precision"] for lane in report.lanes] == ["int8", "fp32"]
    assert "says nothing of the speed of its engines" in report.lanes[0]["runs"]
    assert [result.lane for result in report.results] == ["onnxruntime int8", "onnxruntime fp32"]


def test_pytorch_runs_the_plain_precision(quantized: tuple[Path, Any]) -> None:
    options = Options(batch=1, stages=("vision",), warmup=0, iterations=1, duration=0)
    report = bench(quantized[0], ("torch",), "int8", options)
    assert [lane["name"] for lane in report.lanes] == ["torch"] and "fp32" in report.lanes[0]["runs"]


def test_where_there_is_nothing_to_compare_with_a_note_says_so(
    quantized: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(quantized[0], tmp_path / "bundle"))
    bundle = Bundle.open(root)
    for component in bundle.manifest["components"].values():
        del component["graphs"]["fp32"]
    lanes, notes = lanes_of([bundle], ORT, "int8")
    assert [lane.name for lane in lanes] == ["onnxruntime int8"]
    assert len(notes) == 1 and "has nothing to be compared with" in notes[0]
