"""Questions of the user's own: both answer, and what only they show is seen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.check import GRAPH_ONLY, check
from memvp_export.exporter.parity.samples import read_samples
from memvp_export.exporter.session import Arrays


def test_data_is_answered_by_both_and_judged(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    (request, golden), *_ = read_samples(bundle)
    lines: list[dict[str, Any]] = [
        {"id": "right", "text": request.text, "image": str(request.image), "answer": golden.text},
        {"id": "one of several", "text": request.text, "image": str(request.image), "answer": ["?", golden.text]},
        {"id": "wrong", "text": request.text, "image": str(request.image), "answer": "nothing of the kind"},
        {"id": "open", "text": "What is it?"},
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    report = check(bundle, data=path)
    asked = [answer for answer in report.answers if answer.reference == GRAPH_ONLY]
    assert report.passed and all(answer.same for answer in asked)
    assert {a.id: a.correct for a in asked} == {"right": True, "one of several": True, "wrong": False, "open": None}
    compared = {(r.component, r.output): r for r in report.outputs if r.case == "data, requests 1 to 4"}
    assert compared.keys() == {("vision", "visual_memory"), ("decoder", "logits")}
    # The last column of every prompt, and one for each of four tokens.
    assert compared["decoder", "logits"].shape == (sum(len(a.tokens) + 1 for a in asked), 150)
    assert all(result.passed and 0 < result.distance.relative_l2 < 1e-5 for result in compared.values())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_fault_that_only_the_data_shows_fails_in_every_precision(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """No golden or random call asks for logits at five positions; prompt and four tokens do."""
    run = OnnxSession.run

    def faulty(self: OnnxSession, component: str, inputs: Arrays, outputs: list[str] | None = None) -> Arrays:
        results = run(self, component, inputs, outputs)
        if component == "decoder" and inputs["logits_positions"].shape[1] == 5:
            results["logits"] = results["logits"] * np.float32(1.1)
        return results

    monkeypatch.setattr(OnnxSession, "run", faulty)
    lines = [{"id": str(row), "text": "what is it, and why? " * 3} for row in range(9)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = check(bundle_of(precision), data=tmp_path / "data.jsonl")
    # No decisive token changes, all are ten times too eagerly chosen.
    assert not report.passed and all(answer.passed for answer in report.answers)
    assert [(r.component, r.case) for r in report.outputs if not r.passed] == [
        ("decoder", "data, requests 1 to 8"),
        ("decoder", "data, requests 9 to 9"),
    ]


@pytest.mark.parametrize(("text", "message"), [("", "holds no request"), ("{}", ":1: the key 'id' is missing")])
def test_bad_data_is_refused(bundle_of: Callable[[str], Path], tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        check(bundle_of("fp32"), data=tmp_path / "data.jsonl")
