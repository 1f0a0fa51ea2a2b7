"""A dry run says what a calibration chooses, and refuses what that refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memvp_export.calibration import settings
from memvp_export.calibration.plan import plan_calibration, print_plan
from memvp_export.calibration.scales import read_scales
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import EnvironmentLack, InputError


def files(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_the_layers_are_those_that_a_calibration_chose(
    quantized: tuple[Path, list[dict[str, Any]]], bundle_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = quantized[0]
    scales = read_scales(root / "calibration" / "int8.json")
    chosen = {name: len(layers) for name, layers in scales.layers.items()}
    before = files(root)
    plan = plan_calibration(root, precision="int8", method=scales.method)
    assert {one["name"]: one["layers"] for one in plan["components"]} == chosen and sum(chosen.values()) > 10
    assert plan["samples"] == 3 and plan["disk_free"] > plan["bytes"] > 0
    assert files(root) == before
    # Graphs of another precision have the same layers, and the float32 ones are said to be made.
    half = plan_calibration(bundle_of("fp16"), precision="int8")
    assert [one["layers"] for one in half["components"]] == [one["layers"] for one in plan["components"]]
    assert all(one["traced"] == ["fp32"] for one in half["components"])
    fewer = plan_calibration(root, precision="int8", exclude=["model.layers.0.*"])
    assert sum(one["layers"] for one in fewer["components"]) < sum(chosen.values())
    assert "excluded by name" in fewer["components"][1]["left_out"]
    given = plan_calibration(root, precision="int8", scales=root / "calibration" / "int8.json")
    assert {one["name"]: one["layers"] for one in given["components"]} == chosen and given["samples"] == 0
    print_plan(json.loads(json.dumps(plan)))
    shown = capsys.readouterr().out
    assert all(name in shown and str(count) in shown for name, count in chosen.items())


def test_a_ranking_needs_room_for_one_variant(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, asked = bundle_of("fp32"), []
    monkeypatch.setattr(settings, "require_free", lambda folder, size: asked.append(size))
    for sensitivity in (True, False):
        settings.settle(Bundle.open(root), sensitivity=sensitivity)
    numbers = sum(path.stat().st_size for path in root.glob("graphs/*.data")) // 4
    assert asked[0] - asked[1] == pytest.approx(numbers, rel=0.01)


def test_what_a_calibration_refuses_is_refused(
    quantized: tuple[Path, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = quantized[0]
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps({"id": "1", "text": "?"}) + "\n")
    scales = root / "calibration" / "int8.json"
    for asked, message in (
        ({"data": few}, "needs at least 8"),
        ({"data": tmp_path / "none.jsonl"}, "none.jsonl"),
        ({"data": few, "synthetic": True}, "made up"),
        ({"exclude": ["*"]}, "no layer is left"),
        ({"include": ["nothing.like.this"]}, "nothing.like.this"),
        ({"budget": "much"}, "much"),
        ({"scales": scales, "precision": "fp8"}, "was calibrated for int8"),
        ({"scales": scales, "budget": "0.1"}, "goes without data"),
    ):
        with pytest.raises(InputError, match=message):
            plan_calibration(root, **asked)
    monkeypatch.setattr("memvp_export.exporter.disk.free_bytes", lambda path: 1 << 20)
    with pytest.raises(EnvironmentLack):
        plan_calibration(root)


def test_the_command_writes_nothing(
    quantized: tuple[Path, list[dict[str, Any]]], command: Callable[..., Any], tmp_path: Path
) -> None:
    root, page = quantized[0], tmp_path / "page.html"
    before = files(root)
    done = command("calibrate", root, "--dry-run")
    assert done.code == 0 and done.verdict.startswith("dry run: nothing was written; ")
    refused = command("calibrate", root, "--dry-run", "--html", page)
    assert refused.code == 2 and "--html does not go with --dry-run" in refused.err
    assert files(root) == before and not page.exists()
