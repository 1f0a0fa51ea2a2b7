"""Reports on disk: read again, refused where they are not whole; and shown, on a terminal and as a page."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from memvp_export.exporter.bench.figures import Figures
from memvp_export.exporter.bench.loads import Load
from memvp_export.exporter.bench.page import groups, write_bench_page
from memvp_export.exporter.bench.render import milliseconds, print_bench, rate
from memvp_export.exporter.bench.report import BenchReport, Compared, Result, read_report, with_speedups
from memvp_export.exporter.errors import InputError

PARTS = {"host": 0.001, "h2d": 0.002, "gpu": 0.011, "d2h": 0.003}


def figures(median: float, parts: dict[str, float] | None = None) -> Figures:
    return Figures(
        40, 1.25, median, median / 2, median, {"p50": median, "p90": 2 * median, "p99": None}, 0.01, 0.02, parts
    )


@pytest.fixture
def report() -> BenchReport:
    results = []
    for mode, batch in (("latency", 1), ("throughput", 8)):
        load = Load("decode", "decoder", mode, batch, 1, 64)
        results += with_speedups(
            [
                Result("torch", load, figures(0.08), batch / 0.08),
                Result("tensorrt", load, figures(0.02, PARTS), batch / 0.02),
            ]
        )
    engine = {
        "component": "decoder",
        "file": "engines/x.engine",
        "flavor": "tensorrt",
        "tensorrt": "10.3",
        "lowering": "plugin",
    }
    lanes = [
        {"name": name, "backend": name, "bundle": "/some/where/<b>.bundle", "digest": "ab" * 32, "precision": "fp16"}
        | {"runs": f"{name} in fp16", "threads": 2 if name == "torch" else None}
        | {"engines": [engine | {"plugin": {"build_id": "build-7"}}] if name == "tensorrt" else []}
        for name in ("torch", "tensorrt")
    ]
    compared = [Compared("torch", results[0].load, 0.08, 0.16)]
    return BenchReport(
        {"cpu": "abacus", "gpu": "a <GPU>"}, [{"load": "0.5"}, {"load": "1.5"}], {"warmup": 3}, lanes, results,
        "other.json", compared, ["torch <drifted>"], ["a note"],
    )  # fmt: skip


def test_ratios_are_against_the_first_lane(report: BenchReport) -> None:
    assert [result.speedup for result in report.results] == pytest.approx([1, 4, 1, 4])
    assert [result.gpu_speedup for result in report.results] == [None] * 4
    faster = with_speedups(
        [Result("a", report.results[0].load, figures(0.02, PARTS | {"gpu": 0.033}), 1), report.results[1]]
    )
    assert faster[1].gpu_speedup == pytest.approx(3)


def test_the_verdict_names_the_last_latency_on_every_lane(report: BenchReport) -> None:
    assert report.verdict == (
        "measured: decode, batch 1, 1 token after 64: torch 80 ms, tensorrt 20 ms; 1 of 4 measurements are not stable"
    )


def test_the_verdict_on_images_is_of_what_runs_at_every_step(report: BenchReport) -> None:
    stages = ("text_encoder", "unet", "vae_decoder")
    report.results = [Result("torch", Load(name, name, "latency", 1), figures(0.03), 1) for name in stages]
    assert "measured: unet, batch 1: torch 30 ms" in report.verdict
    report.results = [one for one in report.results if one.load.stage != "unet"]
    assert "measured: vae_decoder, batch 1" in report.verdict


def test_a_report_is_read_again_and_damage_is_named(report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    whole = json.dumps(report.to_dict())
    path.write_text(whole)
    assert read_report(path) == report
    for text, message in (
        (whole[:-20], "nor a whole JSON report"),
        ("[]", "no report of"),
        ('{"format": "other"}', "no report of"),
        (whole.replace('"schema": 1', '"schema": 2'), "has schema 2.*Upgrade"),
        (whole.replace('"median"', '"middle"'), "is edited"),
        (whole.replace('"lanes"', '"roads"'), "is edited"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_report(path)


def test_the_table_has_every_measurement(report: BenchReport, capsys: pytest.CaptureFixture[str]) -> None:
    print_bench(report)
    shown = capsys.readouterr().out
    for text in (
        "latency",
        "throughput",
        "80.0",
        "20.0",
        "1,250",
        "p99",
        "to GPU",
        "11.0",
        "4.00",
        "12.5 tokens",
        "2.00",
    ):
        assert text in shown, text


def test_times_and_rates_have_three_digits() -> None:
    assert [milliseconds(value) for value in (None, 0.0000123, 0.00123, 0.0999, 1.2345)] == [
        "",
        "0.0123",
        "1.23",
        "99.9",
        "1,234",
    ]
    assert [rate(value) for value in (0.1234, 9.0, 123.4, 54321)] == ["0.123", "9.00", "123", "54,321"]


def test_the_page_is_one_file_with_everything(report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "bench.html"
    write_bench_page(report, path)
    source = path.read_text()
    assert not re.search(r"https?://|<script|<link|<iframe|<img|@import|url\(|\bsrc=|\bhref=", source)
    assert "<GPU>" not in source and "<drifted>" not in source and "<b>.bundle" not in source
    for text in (
        "a &lt;GPU&gt;", "torch &lt;drifted&gt;", "a note", "80.0", "1,250", "build-7", "other.json", "ab" * 32, "4.00",
        "Latency: one request at a time", "Throughput: many rows", "with doubts", "0.5, 1.5", "2.00 · 3.00",
    ):  # fmt: skip
        assert text in source, text
    assert "Nothing was measured in both" not in source


def test_a_page_without_doubts_or_comparison_says_neither(report: BenchReport, tmp_path: Path) -> None:
    report.warnings, report.compared_with = [], None
    path = tmp_path / "bench.html"
    write_bench_page(report, path)
    assert "doubts" not in path.read_text() and "Compared with" not in path.read_text()


def test_bars_are_drawn_against_the_longest_time_of_their_group(report: BenchReport) -> None:
    assert [group.longest for group in groups(report)] == pytest.approx([0.16, 0.16])
    assert [len(group.results) for group in groups(report)] == [2, 2]


def test_a_page_of_a_real_bench(bundle: object, fake: Callable, tmp_path: Path) -> None:
    from memvp_export.exporter.bench.measure import bench
    from memvp_export.exporter.bench.options import Options

    fake({bundle.root: lambda _: 0.0123})  # type: ignore[attr-defined]
    made = bench(bundle, ("onnxruntime",), options=Options(batch=2, iterations=20, duration=0))  # type: ignore[arg-type]
    write_bench_page(made, tmp_path / "bench.html")
    assert "12.3" in (tmp_path / "bench.html").read_text()
