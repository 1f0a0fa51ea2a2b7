"""How layers are ranked: by what they do to the outputs, as far as a model's size allows."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from memvp_export.calibration import sensitivity
from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.sensitivity import AT_ONCE, JUDGED, MULTIPLICATIONS, affordable
from memvp_export.exporter.data import Request
from memvp_export.exporter.progress import Progress

# One layer of the decoder is enough.
LEFT = ["visual.*", "backbone.*", "adapter_proj.*", "*.layers.1.*", "*.layers.2.*"]


def test_samples_are_saved_before_layers() -> None:
    assert affordable(50, 1e6) == (JUDGED, 50)
    # ViLT-B/32: 85 million numbers, 205 rows. 7B: 6.5 billion, 600 rows.
    judged, layers = affordable(50, 85e6 * 205)
    assert (AT_ONCE <= judged < JUDGED, layers) == (True, 50)
    assert affordable(224, 6.5e9 * 600) == (AT_ONCE, 0)
    for each in (1e9, 3e9, 2e10, 1e11, 5e11):
        judged, layers = affordable(120, each)
        assert judged * layers * each <= MULTIPLICATIONS
        assert judged == AT_ONCE or layers == 120


def test_a_large_model_has_its_layers_of_least_sqnr_measured(
    bundle_of: Callable[[str], Path], questions: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    class Told(Progress):
        def note(self, message: str) -> None:
            notes.append(message)

    root = Path(shutil.copytree(bundle_of("fp32"), tmp_path / "bundle"))
    monkeypatch.setattr(sensitivity, "affordable", lambda layers, multiplications, most: (AT_ONCE, 5))
    report = calibrate(root, questions, "int8", rest="fp32", samples=8, exclude=LEFT, progress=Told())
    quantized = [row for row in report.layers if row.reason is None]
    measured, others = quantized[:5], quantized[5:]
    assert others and all(row.alone is not None for row in measured) and all(row.alone is None for row in others)
    alone = [row.alone or 0.0 for row in measured]
    assert alone == sorted(alone, reverse=True) and min(alone) > 0
    sqnr = [row.sqnr or 0.0 for row in others]
    assert sqnr == sorted(sqnr) and max(row.sqnr or 0.0 for row in measured) <= sqnr[0]
    assert report.damage is not None and report.damage.relative_l2 > 0
    assert [note for note in notes if f"the 5 of {len(quantized)} layers of least SQNR is measured on 4" in note]
