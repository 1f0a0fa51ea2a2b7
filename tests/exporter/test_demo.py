"""`make demo` on the model that ships: parity, answers that need the image, and a page."""

from pathlib import Path

from memvp_export.exporter.demo import run_demo


def test_the_demo_goes_the_whole_way(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "demo")
    assert result.report.passed and result.bundle.manifest["precision"] == "fp16"
    overall, *types = result.accuracy
    assert overall.total == 64 and overall.share >= 0.9
    assert {row.name for row in types} == {"colour", "count", "position"}
    assert result.without_images.share < 0.4
    page = result.page.read_text()
    assert page.count("data:image") >= 16 and result.report.verdict.split(":")[0].split()[0].lower() in page.lower()
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["demo.html", "shapes.bundle"]
