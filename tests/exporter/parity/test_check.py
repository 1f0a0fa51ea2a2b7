"""A sound bundle passes, and the verdict says against what; nothing compared is no parity."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.parity import half
from memvp_export.exporter.parity.check import GOLDEN, GRAPH_ONLY, check
from memvp_export.exporter.parity.compare import compare_output
from memvp_export.exporter.parity.replay import Pair
from memvp_export.exporter.parity.report import Report
from memvp_export.exporter.parity.samples import read_cases
from memvp_export.exporter.parity.thresholds import THRESHOLDS
from memvp_export.exporter.parity.verdict import judge

from .edits import edit_golden, rewrite

PRECISIONS = ("fp32", "fp16", "bf16")
DECODER_CASES = {
    ("rows: prefill", "logits"),
    *((f"rows: {way}", f"present.*.{kind}") for way in ("prefill", "chunks") for kind in ("key", "value")),
    ("rows: chunks", "logits"),
    ("rows: prefill, then steps", "logits"),
    ("rows: one row, padding removed", "logits"),
    ("long", "logits"),
}


@pytest.fixture(scope="module")
def reports(bundle_of: Callable[[str], Path]) -> Callable[[str], Report]:
    made: dict[str, Report] = {}

    def of(precision: str) -> Report:
        if precision not in made:
            made[precision] = check(bundle_of(precision))
        return made[precision]

    return of


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sound_bundle_passes(reports: Callable[[str], Report], precision: str) -> None:
    report = reports(precision)
    assert report.passed and not report.failures
    assert report.verdict.startswith(f"PARITY against {GOLDEN}: worst relative L2")
    assert report.kinds == [GOLDEN]
    assert {(r.case, r.output) for r in report.outputs if r.component == "decoder"} >= DECODER_CASES
    assert ("rows", "visual_memory") in {(r.case, r.output) for r in report.outputs if r.component == "vision"}
    assert [answer.id for answer in report.answers] == ["builtin-0", "builtin-1", "builtin-2"]
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["passed"] is True


def test_a_sound_bundle_is_far_below_its_limits_and_not_exact_by_accident(reports: Callable[[str], Report]) -> None:
    worst = {p: max(r.distance.relative_l2 for r in reports(p).outputs) for p in PRECISIONS}
    assert 1e-8 < worst["fp32"] < 2e-6 < worst["fp16"] < 5e-3 < worst["bf16"] < 2.5e-2


def test_bf16_says_that_its_numerics_were_not_run(reports: Callable[[str], Report]) -> None:
    assert "numerics not run" in reports("bf16").verdict
    assert any("numerics not run" in note for note in reports("bf16").notes)
    assert "not run" not in reports("fp32").verdict


def test_fp16_is_also_run_in_true_half_arithmetic(reports: Callable[[str], Report]) -> None:
    results = [result for result in reports("fp16").outputs if "true half arithmetic" in result.case]
    assert [(result.component, result.output) for result in results] == [
        ("vision", "visual_memory"),
        ("decoder", "logits"),
    ]
    assert all(0 < result.distance.relative_l2 < 5e-3 for result in results)


def test_why_true_half_arithmetic_was_not_run_is_said(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundle_of("fp16"))
    pairs, reasons = half.true_half(bundle, [])
    assert list(pairs) == [] and len(reasons) == 2 and all("no golden samples" in reason for reason in reasons)
    monkeypatch.setattr(half, "LARGEST_BYTES", 1000)
    pairs, reasons = half.true_half(bundle, read_cases(bundle))
    assert list(pairs) == [] and reasons[0].startswith("true half arithmetic of vision not run: its weights are too")


def test_the_image_moves_the_logits(reports: Callable[[str], Report]) -> None:
    for precision in PRECISIONS:
        effect = reports(precision).image_effect
        assert effect is not None and effect > 0.1


def test_without_golden_samples_the_verdict_says_graph_parity_only(copy: Path) -> None:
    rewrite(copy, "samples/golden.npz", lambda path: None, samples=None)
    report = check(copy)
    assert report.passed and report.kinds == [GRAPH_ONLY] and "graph parity only" in report.verdict
    assert GOLDEN not in report.verdict and not report.answers and report.image_effect is None
    cases = {result.case for result in report.outputs}
    assert {"random, batch 1, 1 columns", "random, batch 8, 5 columns", "random, batch 2, 192 columns"} <= cases


def test_nothing_compared_is_no_parity() -> None:
    report = Report("b", "memvp-llama", "onnxruntime", "fp32", THRESHOLDS["fp32"], ["vision", "decoder"])
    assert not report.passed and report.verdict == "NO PARITY SHOWN: nothing could be compared"


def test_one_component_that_was_not_compared_is_no_parity(copy: Path) -> None:
    def without_vision(arrays: dict[str, np.ndarray]) -> None:
        for name in [name for name in arrays if name.startswith("vision/")]:
            del arrays[name]

    rewrite(copy, "samples/golden.npz", edit_golden(without_vision))
    report = check(copy)
    assert {result.component for result in report.outputs} == {"decoder"} and report.uncompared == ["vision"]
    assert not report.passed and report.failures == ["vision: nothing of it was compared"]
    assert "NO PARITY SHOWN: nothing was compared of vision" in dataclasses.replace(report, failures=[]).verdict


def test_that_no_position_was_decisive_is_said(copy: Path) -> None:
    def flat(report: Report, spread: float) -> list[str]:
        logits = np.array([[1.0, 1 + spread, -1.0]])
        found = compare_output(Pair("decoder", "rows", "logits", logits, logits), GOLDEN, THRESHOLDS["bf16"])
        report.outputs = [found]
        judge(report)
        return report.notes

    report = Report("b", "memvp-llama", "onnxruntime", "bf16", THRESHOLDS["bf16"], ["decoder"])
    assert flat(report, 0.1) == ["no position was decisive (margin 0.5): top-1 agreement says nothing here"]
    assert flat(dataclasses.replace(report, notes=[]), 3.0) == []


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_that_the_bundle_does_not_hold_cannot_be_checked(
    bundle_of: Callable[[str], Path], precision: str
) -> None:
    with pytest.raises(InputError, match=f"no {precision} graph"):
        check(bundle_of("fp32"), precision=precision)


def test_a_precision_that_is_not_known_is_refused(bundle_of: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="precision 'int3' cannot be checked"):
        check(bundle_of("fp32"), precision="int3")


def test_a_backend_that_is_not_known_is_refused(bundle_of: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="'abacus' cannot be checked"):
        check(bundle_of("fp32"), "abacus")


def test_a_lowering_is_of_engines(bundle_of: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="a lowering is of engines"):
        check(bundle_of("fp32"), lowering="native")
