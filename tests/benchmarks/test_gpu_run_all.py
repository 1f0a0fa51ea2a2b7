"""benchmarks/gpu/run_all.py goes its whole way on a machine without a GPU, can be resumed, and loses nothing."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from .. import tensorrt_cpu

FOLDER = Path(__file__).parents[2] / "benchmarks" / "gpu"
SCRIPT = FOLDER / "run_all.py"
QUICK = ["environment", "kernel-tests", "kernel-sanitizer", "kernel-speed", "paper-latency"]


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


def test_no_part_takes_more_than_eight_minutes_and_none_has_the_name_of_another(run_all: ModuleType) -> None:
    assert max(part.seconds for part in run_all.PARTS) <= 480 and run_all.BUDGET <= 1800
    names = [part.name for part in run_all.PARTS]
    assert len({*names}) == len(names)
    for shape in ("shapes", "llama-7b"):
        made = [name for name in names if name.startswith(shape)]
        assert any("native" in name for name in made) and any("plugin" in name for name in made)
        assert {"delta", "concat"} <= {name.rsplit("-", 1)[1] for name in made}
    assert {"fp32", "fp16", "bf16"} <= {name.split("-")[1] for name in names if name.startswith("shapes")}


def test_a_dry_run_of_what_needs_no_engines_and_its_resumption(tmp_path: Path) -> None:
    done = call(tmp_path, *chosen(*QUICK))
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in QUICK}
    assert found["environment"]["machine"]["cores"] and found["environment"]["doctor"]["json"]["checks"]
    assert "lacks" in found["kernel-tests"] and "lacks" in found["kernel-sanitizer"]
    (speed,) = found["kernel-speed"]["measured"]
    assert {"native", "eager", "compile"} <= speed["cases"][0]["operator_us"].keys()
    for one in found["paper-latency"]["measured"]:
        assert set(one["ms"]) == {f"{form} {step}" for form in ("input", "memory") for step in ("prefill", "decode")}
        assert min(one["ms"].values()) > 0
    # Tables come last, and say what they are of.
    assert "== visual tokens in the input or in memory" in done.stdout and "== kernels, us" in done.stdout
    assert done.stdout.rstrip().endswith("they mean nothing.")

    (tmp_path / "paper-latency.json").unlink()
    kept = {name: (tmp_path / f"{name}.json").stat().st_mtime_ns for name in QUICK[:-1]}
    again = call(tmp_path, *chosen(*QUICK))
    states = {line[:32].strip(): line[32:] for line in again.stdout.splitlines()[: len(QUICK)]}
    assert states == dict.fromkeys(QUICK[:-1], "there already") | {"paper-latency": "done"}
    assert kept == {name: (tmp_path / f"{name}.json").stat().st_mtime_ns for name in QUICK[:-1]}


def test_a_budget_that_is_used_up_starts_nothing(tmp_path: Path) -> None:
    done = call(tmp_path, "--budget", "0")
    assert done.returncode == 0 and done.stdout.count("not started: the budget is used up") > 10
    assert not list(tmp_path.glob("*.json"))


def test_a_part_that_fails_leaves_a_log_and_no_result_and_the_others_run(tmp_path: Path) -> None:
    # In the way of the exported bundles.
    (tmp_path / "work").write_text("not a folder")
    done = call(tmp_path, *chosen("kernel-tests", "shapes-bundle", "paper-latency"))
    states = [line.split()[-1] for line in done.stdout.splitlines()[:3]]
    assert done.returncode == 1 and states == ["done", "done", "failed"]
    assert "FileExistsError" in (tmp_path / "shapes-bundle.log").read_text()
    assert not (tmp_path / "shapes-bundle.json").exists() and (tmp_path / "paper-latency.json").exists()


def test_a_part_that_takes_too_long_is_stopped(run_all: ModuleType, tmp_path: Path) -> None:
    place = run_all.Place(run_all.ROOT, tmp_path, 1, True)
    part = next(part for part in run_all.PARTS if part.name == "environment")
    assert run_all.run_part(part, place, ["--results", str(tmp_path), "--dry-run"], 0.2) == "out of time"
    assert not list(tmp_path.glob("*.json*"))


def test_engines_go_the_whole_way_as_far_as_there_is_a_tensorrt(tmp_path: Path) -> None:
    """With the TensorRT that needs no GPU they are built and read back; then a GPU is missing."""
    variants = ["llama-7b-fp16-native-delta", "llama-7b-fp16-native-concat"]
    bundle = call(tmp_path, *chosen("llama-7b-bundle"))
    assert bundle.returncode == 0, (tmp_path / "llama-7b-bundle.log").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*") if path.is_file()}
    built = call(tmp_path, *chosen(*variants), environment=tensorrt_cpu.environment())
    assert built.returncode == 0, built.stdout
    for name in variants:
        found = json.loads((tmp_path / f"{name}.json").read_text())
        if "lacks" in found:
            assert tensorrt_cpu.environment() is None and "TensorRT" in found["lacks"]
            continue
        decoder = found["engines"]["decoder"]
        assert decoder["plugin_layers"] == [] and decoder["products_by_precision"]["float16"] > 10
        assert len(decoder["memory_sites"]) == 3 and decoder["cache_copies"].keys() == {"prefill", "decode"}
        assert found["check"]["code"] == found["bench"]["code"] == 3 or shutil.which("nvidia-smi")
        assert name in built.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*") if path.is_file()} == before
