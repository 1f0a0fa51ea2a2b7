"""The report as a page."""

from collections.abc import Callable
from pathlib import Path

from memvp_export.calibration.damage import Damage
from memvp_export.calibration.page import write_calibration_page
from memvp_export.calibration.report import LayerRow, Report
from memvp_export.exporter.bundle import Bundle


def test_every_layer_is_shown_with_its_figures_or_its_reason(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    rows = [
        LayerRow("decoder", "a.up_proj/MatMul", 96, 256, 3.25, 0.7, 38.5, 0.012, 1e-3, None),
        LayerRow("decoder", "a.down_proj/MatMul", 256, 96, 1.5, 0.0, 44.5, None, None, None),
        LayerRow("decoder", "lm_head/MatMul<", 96, 400, None, 0.0, None, None, None, "last layer"),
    ]
    data = {"samples": 12, "kind": "data.jsonl", "seed": 0}
    sizes = {"decoder": {"rest": 4096, "int8": 1024}}
    report = Report("int8", "mse", data, rows, Damage(0.02, 1e-3, 0.98), sizes)
    write_calibration_page(report, Bundle.open(bundle_of("fp32")), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    figures = ("2 of 3", "1 of better SQNR", "3.25", "0.7", "38.5", "1.2e-02")
    for shown in (*figures, "a.up_proj", "last layer", "MatMul&lt;", "<svg"):
        assert shown in text
    assert "<script" not in text and "http" not in text.replace("http-equiv", "")
