"""Weights that were rounded are told where they may be the reason."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from memvp_export.exporter.bundle import change
from memvp_export.exporter.parity import check as check_module
from memvp_export.exporter.parity.check import check
from memvp_export.exporter.precisions import DTYPES, PLAIN, rounded_weights

FINEST_FIRST = ("fp32", "fp16", "bf16")


def test_only_what_is_finer_than_the_bundle_has_rounded_weights() -> None:
    for i, own in enumerate(FINEST_FIRST):
        for j, asked in enumerate(FINEST_FIRST):
            words = rounded_weights(own, asked)
            assert (words is not None) == (j < i)
            assert words is None or f"exported in {own}: what is {asked} here has weights that were rounded" in words
    assert not any(rounded_weights(own, asked) for own in PLAIN for asked in {*DTYPES} - {*PLAIN})


def test_a_check_that_fails_says_so(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(bundle_of("fp32"), tmp_path / "bundle"))
    with change(root) as (writer, manifest):
        # As if it had been exported in half, and traced again.
        for component in manifest["components"].values():
            component["graphs"]["fp16"] = component["graphs"]["fp32"]
        writer.write_manifest({**manifest, "precision": "fp16"})
    limits = {"fp32": replace(check_module.THRESHOLDS["fp32"], relative_l2=1e-30)}
    monkeypatch.setattr(check_module, "THRESHOLDS", limits)
    report = check(root, precision="fp32")
    assert not report.passed and rounded_weights("fp16", "fp32") in report.notes
