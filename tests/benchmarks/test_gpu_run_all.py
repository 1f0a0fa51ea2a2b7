"""benchmarks/gpu/run_all.py goes its whole way on a machine without a GPU, can be resumed, and loses nothing."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .. import tensorrt_cpu
from ..exporter.engines.tensorrt8_host import program

FOLDER = Path(__file__).parents[2] / "benchmarks" / "gpu"
SCRIPT = FOLDER / "run_all.py"
QUICK = ["kernel-tests", "kernel-sanitizer", "shapes-tensorrt-8"]


@pytest.fixture(scope="module")
def run_all() -> Iterator[ModuleType]:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import run_all

        yield run_all


def call(results: Path, *words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--results", str(results), "--dry-run", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment or dict(os.environ))


def chosen(*names: str) -> list[str]:
    return [word for name in names for word in ("--part", name)]


def part_named(run_all: ModuleType, name: str) -> Any:
    return next(part for part in run_all.PARTS if part.name == name)


def test_no_part_takes_more_than_eight_minutes_and_none_has_the_name_of_another(run_all: ModuleType) -> None:
    assert max(part.seconds for part in run_all.PARTS) <= 480 and run_all.BUDGET <= 1800
    names = [part.name for part in run_all.PARTS]
    assert len({*names}) == len(names)
    for shape in ("shapes", "llama-7b"):
        made = [name for name in names if name.startswith(shape)]
        assert f"{shape}-tensorrt-8" in made
        assert any("native" in name for name in made) and any("plugin" in name for name in made)
        assert {"delta", "concat"} <= {name.rsplit("-", 1)[1] for name in made}
    assert {"fp32", "fp16", "bf16"} <= {name.split("-")[1] for name in names if name.startswith("shapes")}


def test_a_dry_run_can_be_resumed(tmp_path: Path) -> None:
    done = call(tmp_path, *chosen(*QUICK))
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in QUICK}
    assert all("lacks" in found[name] for name in QUICK)
    assert "--tensorrt-8 PROGRAM" in found["shapes-tensorrt-8"]["lacks"]
    assert done.stdout.rstrip().endswith("they mean nothing.")

    (tmp_path / "kernel-sanitizer.json").unlink()
    kept = [name for name in QUICK if name != "kernel-sanitizer"]
    times = {name: (tmp_path / f"{name}.json").stat().st_mtime_ns for name in kept}
    again = call(tmp_path, *chosen(*QUICK))
    states = {line[:32].strip(): line[32:] for line in again.stdout.splitlines()[: len(QUICK)]}
    assert states == dict.fromkeys(kept, "there already") | {"kernel-sanitizer": "done"}
    assert times == {name: (tmp_path / f"{name}.json").stat().st_mtime_ns for name in kept}


def test_the_machine_is_described_and_its_doctor_asked(
    run_all: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_all.Place, "tool", lambda place, *words: list(words))
    run_all.run_here(part_named(run_all, "environment"), run_all.Place(run_all.ROOT, tmp_path, 1, True))
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found["machine"]["cores"] and found["state"] and found["doctor"] == ["doctor", "--json"]


def test_the_papers_claim_at_sizes_that_mean_nothing(run_all: ModuleType, tmp_path: Path) -> None:
    place = run_all.Place(run_all.ROOT, tmp_path, 1, True)
    run_all.run_here(part_named(run_all, "paper-latency"), place)
    for one in json.loads((tmp_path / "paper-latency.json").read_text())["measured"]:
        assert set(one["ms"]) == {f"{form} {step}" for form in ("input", "memory") for step in ("prefill", "decode")}
        assert min(one["ms"].values()) > 0
    times = {"native": {"median": 3.25}}
    case = {"batch": 8, "tokens": 1, "operator_us": times, "block_us": {"native": {"median": 7.5}}}
    speed = {"dry_run": True, "measured": [{"dtype": "float16", "cases": [case]}]}
    (tmp_path / "kernel-speed.json").write_text(json.dumps(speed))
    # Tables come last, and say what they are of.
    shown = run_all.result_tables.tables(tmp_path)
    assert "== visual tokens in the input or in memory" in shown and shown.endswith("they mean nothing.")
    assert ["float16", "8", "1", "native", "3.2", "7.5"] in [line.split() for line in shown.splitlines()]


def test_a_budget_that_is_used_up_starts_nothing(tmp_path: Path) -> None:
    done = call(tmp_path, "--budget", "0")
    assert done.returncode == 0 and done.stdout.count("not started: the budget is used up") > 10
    assert not list(tmp_path.glob("*.json"))


def test_a_part_that_fails_leaves_a_log_and_no_result_and_the_others_run(tmp_path: Path) -> None:
    # In the way of the exported bundles.
    (tmp_path / "work").write_text("not a folder")
    done = call(tmp_path, *chosen("kernel-tests", "shapes-bundle", "shapes-tensorrt-8"))
    states = [line.split()[-1] for line in done.stdout.splitlines()[:3]]
    assert done.returncode == 1 and states == ["done", "failed", "done"]
    assert "FileExistsError" in (tmp_path / "shapes-bundle.log").read_text()
    assert not (tmp_path / "shapes-bundle.json").exists() and (tmp_path / "shapes-tensorrt-8.json").exists()


def test_a_part_that_takes_too_long_is_stopped(run_all: ModuleType, tmp_path: Path) -> None:
    place = run_all.Place(run_all.ROOT, tmp_path, 1, True)
    part = next(part for part in run_all.PARTS if part.name == "environment")
    assert run_all.run_part(part, place, ["--results", str(tmp_path), "--dry-run"], 0.2) == "out of time"
    assert not list(tmp_path.glob("*.json*"))


def test_a_bundle_is_exported_from_a_random_source(
    run_all: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command itself has its own tests."""
    seen: list[list[Any]] = []

    def tool(place: Any, *words: Any) -> dict[str, Any]:
        seen.append([str(word) for word in words])
        assert (Path(seen[-1][1]) / "model.toml").is_file()
        return {"code": len(seen) - 1, "said": "it failed"}

    place = run_all.Place(run_all.ROOT, tmp_path, 1, True)
    monkeypatch.setattr(run_all.Place, "tool", tool)
    part = part_named(run_all, "llama-7b-bundle")
    assert part.run(place)["code"] == 0
    assert seen[0][0] == "onnx" and "--no-golden" in seen[0] and seen[0][3] == str(place.work / "llama-7b.bundle")
    assert not Path(seen[0][1]).exists()
    with pytest.raises(SystemExit, match="it failed"):
        part.run(place)


def test_engines_go_the_whole_way_as_far_as_there_is_a_tensorrt(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """With the TensorRT that needs no GPU they are built and read back; then a GPU is missing."""
    before = with_bundle(tmp_path, bundle_of("fp16"))
    name = "llama-7b-fp16-native-delta"
    built = call(tmp_path, *chosen(name), environment=tensorrt_cpu.environment())
    assert built.returncode == 0, built.stdout
    found = json.loads((tmp_path / f"{name}.json").read_text())
    if "lacks" in found:
        assert tensorrt_cpu.environment() is None and "TensorRT" in found["lacks"]
        return
    decoder = found["engines"]["decoder"]
    assert decoder["by_profile"].keys() == decoder["cache_copies"].keys() == {"prefill", "decode"}
    for counts in decoder["by_profile"].values():
        assert counts["plugin_layers"] == [] and counts["products_by_precision"]["float16"] > 10
    assert len(decoder["memory_sites"]) == 3
    assert found["check"]["code"] == found["bench"]["code"] == 3 or shutil.which("nvidia-smi")
    assert f"{name}  decoder" in built.stdout
    assert files_of(tmp_path) == before


def test_engines_for_tensorrt_8_go_to_another_python_and_back(
    run_all: ModuleType, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """A stand-in for TensorRT 8 builds them; what it computes is nothing, and the difference says so."""
    (tmp_path / "host").mkdir()
    before = with_bundle(tmp_path, bundle_of("fp16"))
    place = run_all.Place(run_all.ROOT, tmp_path, 1, True, program(tmp_path / "host"))
    run_all.run_here(part_named(run_all, "llama-7b-tensorrt-8"), place)
    found = json.loads((tmp_path / "llama-7b-tensorrt-8.json").read_text())
    assert found["build"]["code"] == 0 and found["engines"].keys() == {"vision", "decoder"}
    assert found["runs"].keys() == {"vision default", "decoder decode"}
    assert all(one["difference"] > 0.1 and one["milliseconds"] for one in found["runs"].values())
    assert "of ONNX Runtime's" in run_all.result_tables.tables(tmp_path)
    assert files_of(tmp_path) == before


def with_bundle(results: Path, bundle: Path) -> dict[Path, int]:
    """Put a bundle where the part that exports it would; returns what `files_of` says then."""
    shutil.copytree(bundle, results / "work" / "llama-7b.bundle")
    return files_of(results)


def files_of(results: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (results / "work").rglob("*") if path.is_file()}
