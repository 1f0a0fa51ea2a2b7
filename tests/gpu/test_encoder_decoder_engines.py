"""Engines of random encoder-decoders, built and run on the GPU that is here: parity in every profile."""

from pathlib import Path

import pytest
from memvp_export.examples import random_bart, random_t5
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.engine_error import EngineError
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.engines.tensorrt_module import import_tensorrt

from .test_engines import plugin  # noqa: F401

EXAMPLES = {"memvp-bart": random_bart, "memvp-t5": random_t5}


@pytest.mark.parametrize("lowering", ["native", "plugin"])
@pytest.mark.parametrize("family", EXAMPLES)
def test_engines_pass_the_check(
    family: str, lowering: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memvp_export import export_onnx, read_source
    from memvp_export.exporter.parity.check import check

    try:
        import_tensorrt("tensorrt")
    except EngineError as lack:
        pytest.skip(str(lack))
    if lowering == "plugin":
        monkeypatch.setenv("MEMVP_PLUGIN", str(request.getfixturevalue("plugin")))
    example = EXAMPLES[family]
    example.write_source(tmp_path, example.PRESETS["odd"])
    bundle = export_onnx(read_source(tmp_path), tmp_path / "bundle", "fp16")
    build_engines(bundle.root, Request("fp16", plugin="on" if lowering == "plugin" else "off"))
    report = check(bundle.root, "tensorrt", lowering=lowering)
    assert report.passed, report.failures
    points = {(r.component, r.case.split(":")[0]) for r in report.outputs if r.case.startswith("profile ")}
    assert {("encoder", "profile default at its max")} | {
        ("decoder", f"profile {name} at its max") for name in ("prefill", "decode")
    } <= points
    # More columns at once than half of all are not in the profile for prefill.
    golden = {(result.component, result.case) for result in report.outputs}
    assert {("encoder", "rows"), ("encoder", "long"), ("decoder", "rows: chunks")} <= golden
    assert len(report.answers) == 3
