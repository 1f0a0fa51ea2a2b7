"""A folder that another machine builds engines from: what goes along, what is built there, and what is adopted."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from memvp_export.exporter.bundle import Bundle, sha256_file
from memvp_export.exporter.engines.build import adopt_engines, lower_engines
from memvp_export.exporter.engines.child import build_in_child
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.errors import EnvironmentLack, InputError

from ... import tensorrt_cpu
from ...plugins.fake_library import put_library
from .bundles import DATA, contents, free_bytes, needed, record


def _environment() -> dict[str, str]:
    environment = tensorrt_cpu.environment()
    assert environment is not None
    return environment | {"PYTHON": sys.executable}


def _build_there(folder: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    command = ["sh", folder / "build.sh", *words]
    return subprocess.run(command, env=_environment(), capture_output=True, text=True)


def test_a_folder_builds_elsewhere_and_comes_back(
    tensorrt_here: None, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    root, folder = tmp_path / "bundle", tmp_path / "carried"
    shutil.copytree(bundle_of("fp16"), root)
    recipes = lower_engines(root, folder, Request(target="tensorrt", max_batch=2))
    assert [recipe.name for recipe in recipes] == ["vision.fp16.recipe.json", "decoder.fp16.recipe.json"]
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    with pytest.raises(InputError, match=r"no engine of .* yet"):
        adopt_engines(root, folder)
    # Somewhere else: neither the bundle nor this project is there.
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    weights = moved / "vision.onnx.data"
    sound = weights.read_bytes()
    weights.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
    done = _build_there(moved)
    assert done.returncode == 2 and "vision.onnx.data is missing or damaged" in done.stdout + done.stderr
    weights.write_bytes(sound)
    done = _build_there(moved)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = adopt_engines(root, moved)
    assert {made["component"] for made in entries} == {"vision", "decoder"}
    bundle = Bundle.open(root, verify=True)
    assert record(bundle, "decoder")["layers"] and (moved / "decoder.fp16.engine").is_file()

    with pytest.raises(InputError, match="is not empty"):
        lower_engines(root, moved, Request(target="tensorrt"))
    for inside in (root / "carried", root / "engines" / "carried"):
        with pytest.raises(InputError, match="lies in the bundle that it is made of"):
            lower_engines(root, inside, Request(target="tensorrt"))
        assert not inside.exists()
    held = contents(root)
    published = (root / DATA).read_bytes()
    (root / DATA).write_bytes(bytes([published[0] ^ 1]) + published[1:])
    with pytest.raises(InputError, match="is edited"):
        adopt_engines(root, moved)
    (root / DATA).write_bytes(published)
    recipe = moved / "vision.fp16.recipe.json"
    whole = recipe.read_text()
    recipe.write_text(whole.replace('"schema": 1', '"schema":  1'))
    with pytest.raises(InputError, match="from another recipe"):
        adopt_engines(root, moved)
    recipe.write_text(whole)
    engine = moved / "vision.fp16.engine"
    engine.write_bytes(engine.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="is damaged"):
        adopt_engines(root, moved)
    with pytest.raises(InputError, match=r"was made from another bundle: .* has no fp16 graph of decoder"):
        adopt_engines(bundle_of("fp32"), moved)
    changed = recipe.with_name("decoder.fp16.recipe.json")
    changed.write_text(changed.read_text().replace(Bundle.open(root).manifest["files"][DATA]["sha256"], "0" * 64))
    with pytest.raises(InputError, match="from another bundle"):
        adopt_engines(root, moved)
    assert contents(root) == held


def test_engines_are_adopted_only_where_they_fit(
    tensorrt_here: None, bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder = tmp_path / "bundle", tmp_path / "carried"
    shutil.copytree(bundle_of("fp16"), root)
    (recipe,) = lower_engines(root, folder, Request(target="tensorrt", components=["vision"]))
    build_in_child(recipe, 1, lambda done: None)
    before = contents(root)
    free_bytes(monkeypatch, 1000)
    with pytest.raises(EnvironmentLack, match="the disk is too small") as failure:
        adopt_engines(root, folder)
    assert needed(str(failure.value)) == sum(
        (folder / f"vision.fp16.{end}").stat().st_size for end in ("engine", "json")
    )
    assert contents(root) == before


@pytest.mark.parametrize("library", [None, "text.so"])
def test_the_machine_that_builds_has_its_own_plugin_library(
    library: str | None,
    tensorrt_here: None,
    plugin_library: Path,
    bundle_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MEMVP_PLUGIN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if library:
        # As of another processor.
        (tmp_path / library).write_text("not for this machine")
        monkeypatch.setenv("MEMVP_PLUGIN", str(tmp_path / library))
    root, folder = tmp_path / "bundle", tmp_path / "carried"
    shutil.copytree(bundle_of("fp16"), root)
    asked = Request(target="tensorrt", components=["decoder"], plugin="on", max_batch=2, max_seq=32)
    (recipe,) = lower_engines(root, folder, asked)
    plugin = json.loads(recipe.read_text())["plugin"]
    assert plugin["library"] is None and plugin["operators"] == ["VisualMemoryFFN"]
    assert not (folder / "plugins").exists() and "sh build.sh --plugin" in (folder / "README.md").read_text()
    alone = _build_there(folder)
    assert alone.returncode == 3 and "has no creator of VisualMemoryFFN" in alone.stdout and "--plugin" in alone.stdout
    (tmp_path / "cut.so").write_bytes(plugin_library.read_bytes()[:-1])
    cut = _build_there(folder, "--plugin", tmp_path / "cut.so")
    assert cut.returncode == 2 and "cut.so is cut short: it has" in json.loads(cut.stdout)["error"]
    built = _build_there(folder, "--plugin", plugin_library)
    assert built.returncode == 0, built.stdout
    (made,) = adopt_engines(root, folder)
    assert made["lowering"] == "plugin" and made["plugin"]["sha256"] == sha256_file(plugin_library)


def test_a_library_for_engines_that_are_all_native_is_refused(
    tensorrt_here: None, plugin_library: Path, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "carried"
    lower_engines(bundle_of("fp16"), folder, Request(target="tensorrt", max_batch=2, max_seq=32))
    done = _build_there(folder, "--plugin", plugin_library)
    assert done.returncode == 2 and "native, and use no plugin library: leave --plugin out" in done.stdout
    assert not list(folder.glob("*.engine"))
    shutil.rmtree(folder)
    # The vision tower looks nothing up, and the decoder does.
    asked = Request(target="tensorrt", plugin="on", max_batch=2, max_seq=32)
    lower_engines(bundle_of("fp16"), folder, asked)
    done = _build_there(folder, "--plugin", plugin_library)
    assert done.returncode == 0 and len(list(folder.glob("*.engine"))) == 2, done.stdout


def test_a_library_that_is_here_goes_along(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = put_library(tmp_path / "libhere.so")
    monkeypatch.setenv("MEMVP_PLUGIN", str(library))
    lower_engines(
        bundle_of("fp16"), tmp_path / "carried", Request(target="tensorrt", components=["decoder"], plugin="on")
    )
    assert (tmp_path / "carried/plugins/libhere.so").read_bytes() == library.read_bytes()
