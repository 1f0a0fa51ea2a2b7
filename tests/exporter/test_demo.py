"""`make demo` on the model that ships: parity, answers that need the image, and a page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter import demo
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


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (Path.touch, "is a file: name a folder"),
    "an earlier demo": (lambda folder: (folder / "shapes.bundle").mkdir(parents=True), "--overwrite"),
    "below a file": (lambda folder: folder.symlink_to("/dev/null/demo"), "cannot be written"),
}


@pytest.mark.parametrize(("prepare", "message"), PLACES.values(), ids=list(PLACES))
def test_a_folder_that_cannot_be_used_is_refused_before_any_work(
    prepare: Callable[[Path], object],
    message: str,
    tmp_path: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(*given: object) -> None:
        pytest.fail("the work began")

    monkeypatch.setattr(demo, "read_source", work)
    prepare(tmp_path / "demo")
    done = command("demo", tmp_path / "demo")
    assert done.code == (3 if "written" in message else 2) and message in done.verdict
