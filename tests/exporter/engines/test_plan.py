"""What a dry run says of engines, and that it refuses what a build would refuse."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines import build as building
from memvp_export.exporter.engines.build import build_engines, lower_engines, plan_engines
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.errors import EnvironmentLack, InputError

from .bundles import DATA, Told, contents, copied, free_bytes, needed


def test_a_plan_names_lowerings_and_why(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    root, folder = bundle_of("fp16"), tmp_path / "carried"
    before = contents(root)
    plan = plan_engines(root, Request(target="tensorrt-rtx"), folder)
    assert (plan["target"], plan["precision"], plan["cache"]) == ("tensorrt-rtx", "fp16", "delta")
    reasons = {part["name"]: (part["lowering"], part["why"]) for part in plan["components"]}
    assert reasons["vision"] == ("native", "it has no memory lookups")
    assert reasons["decoder"] == ("native", "no measurement says that the plugin is faster here")
    assert plan["bytes"] == sum((root / f"graphs/{name}.onnx.data").stat().st_size for name in reasons)
    half, single = plan["bytes"], plan_engines(root, Request("fp32", "tensorrt", single_pass=True), folder)
    assert single["bytes"] == 2 * half and single["cache"] is None
    assert contents(root) == before and not folder.exists()


def test_what_a_graph_made_of_rounded_weights_cannot_be_is_said(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    told = Told()
    root = copied(Bundle.open(bundle_of("fp16")), tmp_path / "bundle")
    lower_engines(root, tmp_path / "full", Request("fp32", "tensorrt", ["vision"]), told)
    (note,) = told.notes
    assert note.startswith("the bundle was exported in fp16: what is fp32 here has weights that were rounded to fp16")
    folder = tmp_path / "planned"
    assert plan_engines(root, Request("fp32", "tensorrt"), folder)["notes"] == told.notes
    assert plan_engines(root, Request("fp16", "tensorrt"), folder)["notes"] == []


@pytest.mark.parametrize(
    ("version", "target"), [("8.6.1", "tensorrt-8"), ("10.13.3", "tensorrt"), ("9.3.0", "tensorrt"), (None, "tensorrt")]
)
def test_the_installed_version_settles_the_target(
    version: str | None,
    target: str,
    bundle_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text("raise AssertionError('it is not to be loaded here')\n")
    if version:
        (tmp_path / "tensorrt.dist-info").mkdir()
        (tmp_path / "tensorrt.dist-info" / "METADATA").write_text(f"Name: tensorrt\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert plan_engines(bundle_of("fp16"), folder=tmp_path / "carried")["target"] == target


def test_a_dry_run_refuses_what_a_build_would_refuse_before_it_writes(
    tensorrt_here: None, bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, asked = copied(Bundle.open(bundle_of("fp16")), tmp_path / "bundle"), Request("fp16", "tensorrt", ["vision"])
    (root / "engines").write_text("not a folder")
    with pytest.raises(EnvironmentLack, match=r"bundle/engines cannot be written: .* is a file"):
        plan_engines(root, asked)
    (root / "engines").unlink()
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentLack, match=r"file/new cannot be written: .* is a file"):
        plan_engines(root, asked, tmp_path / "file" / "new" / "carried")
    with pytest.raises(InputError, match="it has no timing cache"):
        plan_engines(root, replace(asked, timing_cache=tmp_path / "cache"))
    may_write, closed = os.access, {root}
    monkeypatch.setattr(os, "access", lambda path, mode: path not in closed and may_write(path, mode))
    for way in (plan_engines, build_engines):
        with pytest.raises(EnvironmentLack, match="bundle cannot be written: no permission"):
            way(root, asked)
    with pytest.raises(EnvironmentLack, match="bundle cannot be written: no permission"):
        plan_engines(root, replace(asked, precision="bf16"), tmp_path / "carried")
    plan_engines(root, asked, tmp_path / "carried")
    closed.clear()
    graph = root / "graphs/vision.onnx"
    assert len(plan_engines(root, asked)["components"]) == 1
    graph.write_bytes(graph.read_bytes().replace(b"visual_memory", b"visual_memorx"))
    with pytest.raises(InputError, match=r"is edited: the bytes of graphs/vision\.onnx are not"):
        plan_engines(root, asked)


def test_a_plan_says_the_room_where_it_would_write(
    tensorrt_here: None, bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, rooms = shutil.disk_usage("/"), {tmp_path: 7 << 40}
    monkeypatch.setattr(building.shutil, "disk_usage", lambda folder: used._replace(free=rooms.get(folder, 5 << 40)))
    asked = Request(target="tensorrt")
    assert plan_engines(bundle_of("fp16"), asked)["disk_free"] == 5 << 40
    assert plan_engines(bundle_of("fp16"), asked, tmp_path / "new" / "carried")["disk_free"] == 7 << 40


def test_the_room_for_weights_that_lowering_makes_is_counted(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder = bundle_of("fp16"), tmp_path / "carried"
    asked = Request(target="tensorrt", components=["decoder"])
    (recipe,) = lower_engines(root, folder, asked)
    # Rotary tables are in it too: 512 columns of 8 angles, in two of them.
    made = (folder / "decoder.lowered.data").stat().st_size
    free_bytes(monkeypatch, 0)
    with pytest.raises(EnvironmentLack) as native:
        lower_engines(root, tmp_path / "other", asked)
    with pytest.raises(EnvironmentLack) as plugged:
        lower_engines(root, tmp_path / "other", replace(asked, plugin="on"))
    counted = needed(str(native.value)) - needed(str(plugged.value))
    assert 0.8 * made < counted <= made and recipe.is_file()
    assert needed(str(plugged.value)) > (root / DATA).stat().st_size
    assert not (tmp_path / "other").exists()
