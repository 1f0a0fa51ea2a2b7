"""benchmarks/gpu/run_all.py goes its whole way on a machine without a GPU, can be resumed, and loses nothing."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .. import tensorrt_cpu
from ..exporter.engines.tensorrt8_host import program

FOLDER = Path(__file__).parents[2] / "benchmarks" / "gpu"
SCRIPT = FOLDER / "run_all.py"
SHELL = Path(__file__).parents[1] / "gpu" / "run_all.sh"
QUICK = ["kernel-tests", "shapes-tensorrt-8-fp16-native", "kernel-sanitizer"]
QUANTIZED = {"int8", "fp8", "int8-weights", "int4-weights"}


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
        made = [name.removeprefix(f"{shape}-") for name in names if name.startswith(shape)]
        assert {"tensorrt-8-fp16-native", "tensorrt-8-fp16-plugin"} <= {*made}
        assert {"fp16-native-delta", "fp16-plugin-delta", "fp16-native-concat", "fp16-native-in_place"} <= {*made}
        assert {f"{mode}-native-delta" for mode in QUANTIZED} <= {*made}
    assert {"shapes-fp32-native-delta", "shapes-bf16-plugin-delta", "llama-7b-bf16-native-delta"} <= {*names}
    assert {"shapes-vilt-fp16-native-delta", "shapes-vilt-int8-native-delta", "llama-7b-fp32-native-delta"} <= {*names}
    assert {"apt-meter-native", "apt-stable-diffusion-native", "memvp-t5-plugin", "memvp-bart-native"} <= {*names}


def test_it_runs_where_nothing_of_the_project_is_installed() -> None:
    # Without the file that makes the project's packages importable.
    site = next(path for path in sys.path if path.endswith("site-packages"))
    command = [sys.executable, "-S", str(SCRIPT), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": site})
    assert done.returncode == 0 and "paper-latency" in done.stdout, done.stderr


def test_a_dry_run_can_be_resumed(tmp_path: Path) -> None:
    done = call(tmp_path, *chosen(*QUICK))
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in QUICK}
    assert all("lacks" in found[name] for name in QUICK)
    assert "--tensorrt-8 PROGRAM" in found[QUICK[1]]["lacks"]
    assert done.stdout.rstrip().endswith("they mean nothing.")

    # What is through stays as it is; what lacked something is tried again.
    through = tmp_path / f"{QUICK[0]}.json"
    through.write_text(json.dumps({"dry_run": True, "said": ["322 passed in 40.00s"]}))
    times = {name: (tmp_path / f"{name}.json").stat().st_mtime_ns for name in QUICK}
    again = call(tmp_path, *chosen(*QUICK))
    states = {line[:40].strip(): line[40:] for line in again.stdout.splitlines()[: len(QUICK)]}
    assert states == {QUICK[0]: "there already", QUICK[1]: "done", QUICK[2]: "done"}
    changed = {name for name in QUICK if (tmp_path / f"{name}.json").stat().st_mtime_ns != times[name]}
    assert changed == {*QUICK[1:]} and "322 passed in 40.00s  met" in again.stdout

    # Neither kind of run takes the other's results for its own, and a dry one replaces none.
    run = json.loads(through.read_text()) | {"dry_run": False}
    through.write_text(json.dumps(run))
    refused = call(tmp_path, *chosen(*QUICK))
    assert refused.returncode == 2 and "holds what was measured" in refused.stderr
    assert json.loads(through.read_text()) == run


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
    assert "== visual tokens in the input or in memory" in run_all.result_tables.tables(tmp_path)


def speed_of(plugin_us: float) -> dict[str, Any]:
    """What kernel_speed.py writes of a decode at batch 64 on a GPU of 1 GB/s: the plugin has 1 MB to move, native 1 MB
    and its visual rows of 0.5 MB again, in 3 ms."""
    times = {"native": {"median": 3000.0}, "plugin": {"median": plugin_us}}
    case = {"batch": 64, "tokens": 1, "least_bytes": 1_000_000, "operator_us": times}
    case |= {"block_us": {"plain": {"median": 5000.0}, **times}, "operator_error": dict.fromkeys(times, 2e-4)}
    case |= {"operator_launched_us": dict.fromkeys(times, 4000.0)}
    sizes = {"rows": 4, "width": 976}
    launches, rates = {"one by one": 4.5, "in a graph": 1.25}, {"copy": 0.5, "read": 1.0}
    return {"dtype": "float16", "sizes": sizes, "launch_us": launches, "bandwidth_gb_per_s": rates, "cases": [case]}


def test_tables_come_last_and_say_what_was_expected_and_what_was_reached(run_all: ModuleType, tmp_path: Path) -> None:
    for plugin_us, state in ((1250.0, "met"), (2500.0, "not met")):
        part = {"dry_run": True, "measured": speed_of(plugin_us)}
        (tmp_path / "kernel-speed-float16.json").write_text(json.dumps(part))
        shown = run_all.result_tables.tables(tmp_path)
        lines = [line.split() for line in shown.splitlines()]
        assert ["float16", "0", "1", "4.50", "1.25"] in lines
        row = [*("float16", "64", "1", "plugin", f"{plugin_us:.1f}", "1000.0"), f"{3000 / plugin_us:.2f}"]
        assert [*row, f"{plugin_us - 5000:.1f}", "4000.0", "2.0e-04"] in lines
        judged = [line for line in shown.splitlines() if line.startswith("plugin, decode at B 64")]
        assert [line.endswith(f"  {state}") for line in judged] == [True, True]
        assert shown.endswith("they mean nothing.") and "end to end" in shown and "not measured" in shown


def test_a_lowering_that_fails_in_the_block_alone_is_shown_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    import kernel_speed

    (case,) = speed_of(1250.0)["cases"]
    case["operator_us"] = {name: {**times, "p10": 1.0, "p90": 2.0} for name, times in case["operator_us"].items()}
    del case["block_us"]["plugin"]
    kernel_speed.show(case | {"operator_failed": {}, "block_failed": {"plugin": "no such kernel"}}, 1.0)
    shown = capsys.readouterr().out
    assert "adds -2000.0 us" in shown and "adds     nan us" in shown and "no such kernel" in shown


def test_what_was_missing_is_no_verdict(run_all: ModuleType) -> None:
    missing = {"lacks": "a GPU"}
    found = {
        "engine-tests": {"said": ["3 passed"], **missing},
        "there": {"build": {"code": 0}, "precision": "fp16", **missing},
        "wrong": {"build": {"code": 1}, "precision": "fp16"},
        "not there": {"build": {"code": 3, **missing}, "precision": "fp16", **missing},
    }
    reached = {what: rest for what, *rest in run_all.result_tables.targets.reached(found)}
    assert reached["the engines' tests pass"] == ["3 passed", "met in part"]
    assert reached["every engine is what was asked for"] == ["1 of 2", "not met: wrong"]


def test_a_budget_that_is_used_up_starts_nothing(tmp_path: Path) -> None:
    done = call(tmp_path, "--budget", "0")
    assert done.returncode == 0 and done.stdout.count("not started: the budget is used up") > 10
    assert not list(tmp_path.glob("*.json"))


def test_a_part_that_fails_leaves_a_log_and_no_result_and_the_others_run(tmp_path: Path) -> None:
    # In the way of the exported bundles.
    (tmp_path / "dry-work").write_text("not a folder")
    done = call(tmp_path, *chosen("kernel-tests", "shapes-bundle", QUICK[1]))
    states = [line.split()[1].strip(":") for line in done.stdout.splitlines()[:3]]
    assert done.returncode == 1 and states == ["done", "failed", "done"]
    assert "FileExistsError" in (tmp_path / "shapes-bundle.log").read_text()
    assert not (tmp_path / "shapes-bundle.json").exists() and (tmp_path / f"{QUICK[1]}.json").exists()


def test_nothing_is_started_that_hardly_fits_and_what_was_tried_comes_last(
    run_all: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = run_all.Place(run_all.ROOT, tmp_path, 1, True)
    started: list[str] = []
    monkeypatch.setattr(run_all, "run_part", lambda part, *_: started.append(part.name) or "done")
    parts = [run_all.Part(name, seconds, dict) for name, seconds in (("lacked", 50), ("long", 126), ("new", 120))]
    place.json("lacked").write_text(json.dumps({"dry_run": True, "lacks": "something"}))
    assert run_all.run_all(parts, place, [], 100) == 0
    assert started == ["new", "lacked"]


def test_what_was_measured_is_shown_of_a_part_that_was_ended(run_all: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    measured = {**speed_of(1250.0), "dry_run": False}
    (tmp_path / "kernels" / "kernel-speed-float16.json").write_text(json.dumps(measured))
    assert "1250.0" in run_all.result_tables.tables(tmp_path)
    assert run_all.Place(run_all.ROOT, tmp_path, 1, False).found("kernel-speed-float16") is None


def test_the_tables_are_there_where_the_call_is_ended(
    run_all: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: Any) -> str:
        raise SystemExit(143)

    monkeypatch.setattr(run_all, "run_part", ended)
    monkeypatch.setattr(run_all.signal, "signal", lambda *_: None)
    words = ["run_all.py", "--results", str(tmp_path), "--dry-run", *chosen("kernel-tests")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="143"):
        run_all.main()
    assert "to reach" in (tmp_path / "tables.txt").read_text()


def test_the_first_parts_are_parts(run_all: ModuleType) -> None:
    assert tuple(part.name for part in run_all.PARTS[: len(run_all.FIRST)]) == run_all.FIRST


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_part_and_what_it_started_end_with_the_call_that_was_killed(tmp_path: Path) -> None:
    inner = "import run_all, subprocess, time; run_all.end_with_caller(); child = subprocess.Popen(['sleep', '60']); "
    inner += "print(child.pid, flush=True); time.sleep(60)"
    outer = "import subprocess, sys; "
    outer += f"subprocess.Popen([sys.executable, '-c', {inner!r}], start_new_session=True).wait()"
    command = [sys.executable, "-c", outer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=FOLDER) as caller:
        assert caller.stdout is not None
        child, killed = caller.stdout.readline().strip(), time.monotonic()
        caller.kill()
        # The end of what the child, too, would have kept open.
        assert child.isdecimal() and caller.stdout.read() == "" and time.monotonic() < killed + 20


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


def test_every_part_asks_for_what_the_tool_takes(
    run_all: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands that no test runs on a GPU are read as the command line reads them."""
    from memvp_export import cli

    seen: list[list[str]] = []

    def tool(place: Any, *words: Any) -> dict[str, Any]:
        seen.append([str(word) for word in words])
        command, rest = cli.cli.commands[words[0]], seen[-1][1:]
        command.make_context(words[0], rest)
        if words[0] == "onnx":
            Path(words[3]).mkdir()
        data = {"engines": [], "results": [], "compared": []} if words[0] != "check" else None
        return {"code": 0, "said": "done", "json": data}

    monkeypatch.setattr(run_all.Place, "tool", tool)
    monkeypatch.setattr(run_all.engine_parts, "no_tensorrt", dict)
    monkeypatch.setattr(run_all.family_parts, "no_tensorrt", dict)
    monkeypatch.setattr(run_all.family_parts.subprocess, "run", lambda words, check: [str(word) for word in words])
    monkeypatch.setenv("MEMVP_PLUGIN", "")
    for dry, parts in (
        (False, [*run_all.engine_parts.PARTS, *run_all.engine_parts.QUANTIZED_PARTS]),
        (True, run_all.family_parts.PARTS),
    ):
        place = run_all.Place(run_all.ROOT, tmp_path, 1, dry)
        run_all.engine_parts.library(place).touch()
        # That of the LLaMA-7B-shaped model would be written first.
        for bundle in ("llama-7b", "llama-7b-fp32"):
            (place.work / f"{bundle}.bundle").mkdir()
        for part in parts:
            if not part.name.endswith(("bundle", "tests")):
                part.run(place)
    built = [words for words in seen if words[0] == "trt"]
    for mode in QUANTIZED:
        asked = [words[0] for words in seen if {mode, f"--{mode}"} & {*words}]
        # Random weights have no answers that could be kept, and the last, an APT-ViLT, no decode steps.
        expected = ["calibrate", "trt", "check", "bench", "bench", "calibrate", "trt", "bench", "bench"]
        assert asked == expected + (["calibrate", "trt", "check", "bench"] if mode == "int8" else [])
        assert all("--data" in words for words in seen if words[0] == "check" and mode in words)
    # The shipped models were not there, and each was exported once in a half precision and once in fp32.
    exported = [(Path(words[3]).stem, words[5]) for words in seen if words[0] == "onnx"]
    assert [each for each in exported if each[0].startswith("shapes")] == [
        *(("shapes", "fp16"), ("shapes-fp32", "fp32")),
        *(("shapes-vilt", "fp16"), ("shapes-vilt-fp32", "fp32")),
    ]
    assert {"in_place", "concat", "delta", "on", "off"} <= {word for words in built for word in words}


@pytest.mark.parametrize(
    ("said", "code", "expected"),
    [("fine", 0, "nothing found"), ("Device not supported", 1, "not supported on"), ("a race", 9, "failed")],
)
def test_the_sanitizer_says_what_it_found_or_that_it_cannot_look(
    said: str, code: int, expected: str, tmp_path: Path
) -> None:
    programs = {
        "nvidia-smi": "echo 9.0",
        "nvcc": 'while test "$1" != -o; do shift; done; echo made > "$2"',
        "compute-sanitizer": f"echo {said}; exit {code}",
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHON": "true"}
    command = ["bash", str(SHELL), str(tmp_path / "out"), "sanitizer"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == (expected == "failed") and done.stdout.count(expected) == 4, done.stdout + done.stderr
    assert (tmp_path / "out" / "libmemvp_kernels-sm_90.so").is_file()


def test_engines_go_the_whole_way_as_far_as_there_is_a_tensorrt(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """With the TensorRT that needs no GPU they are built and read back; then a GPU is missing."""
    before = with_bundle(tmp_path, bundle_of("fp16"))
    name = "llama-7b-fp16-native-delta"
    built = call(tmp_path, *chosen(name), environment=tensorrt_cpu.environment())
    assert built.returncode == 0, built.stdout
    found = json.loads((tmp_path / f"{name}.json").read_text())
    if tensorrt_cpu.environment() is None:
        assert "imports neither tensorrt nor tensorrt_rtx" in found["lacks"]
        return
    decoder = found["engines"]["decoder"]
    assert decoder["by_profile"].keys() == decoder["cache_copies"].keys() == {"prefill", "decode"}
    for counts in decoder["by_profile"].values():
        assert counts["plugin_layers"] == [] and counts["products_by_precision"]["float16"] > 10
    assert len(decoder["memory_sites"]) == 3
    # What could not be run is run again.
    if shutil.which("nvidia-smi") is None:
        assert found["check"]["code"] == found["bench"]["code"] == 3 and found["lacks"] == found["check"]["lacks"]
    # As docs/lowering.md counted them.
    assert decoder["kernels"] == {"prefill": [4, 9], "decode": [1, 8]}
    assert f"{name}  prefill  4          4         9             9" in built.stdout
    assert (tmp_path / "layers" / "llama-7b-fp16-off-delta-decoder.json").is_file()
    assert f"{name}  decoder" in built.stdout
    assert files_of(tmp_path) == before


def test_engines_for_tensorrt_8_go_to_another_python_and_back(
    run_all: ModuleType, bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for TensorRT 8 builds them; what it computes is nothing, and the difference says so."""
    load = {"stage": "decode", "batch": 1, "columns": 1, "past": 64}
    measured = {"lane": "torch", "load": load, "figures": {"median": 9.0, "parts": {"gpu": 3e-3}}}
    tool = run_all.Place.tool

    def no_bench(place: Any, *words: Any) -> dict[str, Any]:
        return {"code": 0, "json": {"results": [measured]}} if words[0] == "bench" else dict(tool(place, *words))

    monkeypatch.setattr(run_all.Place, "tool", no_bench)
    (tmp_path / "host").mkdir()
    before = with_bundle(tmp_path, bundle_of("fp16"))
    place = run_all.Place(run_all.ROOT, tmp_path, 1, True, program(tmp_path / "host"))
    name = "llama-7b-tensorrt-8-fp16-native"
    run_all.run_here(part_named(run_all, name), place)
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["build"]["code"] == 0 and found["engines"].keys() == {"vision", "decoder"}
    assert found["runs"].keys() == {"decoder decode"}
    assert all(one["difference"] > 0.1 and one["milliseconds"] for one in found["runs"].values())
    shown = run_all.result_tables.tables(tmp_path)
    assert "of ONNX Runtime's" in shown
    rows = [line.split() for line in shown.splitlines() if line.startswith(f"{name}  decode B=1 columns=1 past=64")]
    assert [row[-4:-1] for row in rows[:1]] + [row[-3:] for row in rows[1:]] == 2 * [["3.000", "1.500", "2.00"]]
    judged = [line.split()[-2:] for line in shown.splitlines() if "eager, TensorRT 8, between events" in line]
    assert judged == 2 * [["2.00", "met"]]
    # What the stand-in computes.
    assert f"0 of 1 not met: {name} decoder decode" in " ".join(shown.split())
    assert files_of(tmp_path) == before


def with_bundle(results: Path, bundle: Path) -> dict[Path, int]:
    """Put a bundle where the part that exports it would; returns what `files_of` says then."""
    shutil.copytree(bundle, results / "dry-work" / "llama-7b.bundle")
    return files_of(results)


def files_of(results: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (results / "dry-work").rglob("*") if path.is_file()}
