"""`trt`, `bench` and `plugin` on the command line: verdicts, exit codes, clean JSON, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from .exporter.engines.conftest import tensorrt_here  # noqa: F401
from .exporter.engines.fake_bundle import with_engines
from .plugins.fake_library import SAID, put_library
from .plugins.fake_nvcc import put_nvcc

Command = Callable[..., Any]
PIP = ("tensorrt", "tensorrt-rtx")


@pytest.fixture
def bundle(bundle_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """An fp16 bundle to build engines in."""
    return Path(shutil.copytree(bundle_of("fp16"), tmp_path / "odd.bundle"))


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither MEMVP_PLUGIN nor `plugin build` has left a library."""
    monkeypatch.delenv("MEMVP_PLUGIN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch, no_library: None, tmp_path: Path) -> None:
    """As where no TensorRT is installed, in this process and in its children."""
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
        (tmp_path / "none" / name).mkdir(parents=True)
        (tmp_path / "none" / name / "__init__.py").write_text(f'raise ImportError("no {name} here")\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def manifest(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return found


@pytest.mark.usefixtures("tensorrt_here")
class TestWithTensorRT:
    def test_a_component_is_built_entered_and_inspected(self, command: Command, bundle: Path) -> None:
        done = command("trt", bundle, "--target", "tensorrt", "--component", "vision", "--max-batch", 2, "--json")
        assert done.code == 0, done.err
        assert done.verdict == f"done: 1 engine in {bundle}, read back: what was asked for is in there"
        (entry,) = json.loads(done.out)
        assert entry == manifest(bundle)["engines"][0] and entry["precision"] == "fp16"
        assert [stage in done.err for stage in ("lower vision", "build vision", "read back vision")] == [True] * 3
        engine = bundle / entry["file"]
        for path in (bundle, engine):
            shown = command("inspect", path)
            assert shown.code == 0 and "vision" in shown.out and "float16" in shown.out, path
        assert json.loads(command("inspect", engine, "--json").out)["precision"] == "fp16"

        again = command("trt", bundle, "--target", "tensorrt", "--component", "vision", "--max-batch", 3)
        assert again.code == 0 and entry["file"].split("/")[-1] in again.out.replace("\n", "")
        (entry,) = manifest(bundle)["engines"]
        assert entry["profiles"][0]["shapes"]["pixel_values"]["max"][0] == 3

    def test_a_dry_run_writes_nothing(self, command: Command, bundle: Path) -> None:
        before = contents(bundle)
        words = ["trt", bundle, "--target", "tensorrt", "--dry-run"]
        done, as_json = command(*words), command(*words, "--json")
        assert done.code == as_json.code == 0
        assert done.verdict == as_json.verdict == "dry run: nothing was written; 2 engines planned"
        assert "native" in done.out and json.loads(as_json.out)["target"] == "tensorrt"
        assert contents(bundle) == before

    def test_explicit_shapes_reach_the_engine_in_both_grammars(self, command: Command, bundle: Path) -> None:
        size = manifest(bundle)["components"]["vision"]["inputs"][0]["dims"][-1]
        words = ["--min-shapes", f"pixel_values:2x3x{size}x{size}", "--opt-shapes", f"pixel_values:[3,3,{size},{size}]"]
        done = command("trt", bundle, "--target", "tensorrt", "--component", "vision", "--max-batch", 5, *words)
        assert done.code == 0, done.err
        shapes = manifest(bundle)["engines"][0]["profiles"][0]["shapes"]["pixel_values"]
        assert [shapes[bound][0] for bound in ("min", "opt", "max")] == [2, 3, 5]

    def test_the_round_over_another_machine(self, command: Command, bundle: Path, tmp_path: Path) -> None:
        before, folder = contents(bundle), tmp_path / "carried"
        lowered = command("trt", bundle, "--target", "tensorrt", "--lower-only", folder, "--max-batch", 2)
        assert lowered.code == 0 and contents(bundle) == before
        assert lowered.verdict == f"done: {folder} builds 2 engines: copy it, run build.sh there, then --adopt it"
        early = command("trt", bundle, "--adopt", folder)
        assert early.code == 2 and "run build.sh there first" in early.err and contents(bundle) == before
        built = subprocess.run(["sh", folder / "build.sh"], env=os.environ | {"PYTHON": sys.executable})
        assert built.returncode == 0
        adopted = command("trt", bundle, "--adopt", folder, "--json")
        assert adopted.code == 0 and [entry["component"] for entry in json.loads(adopted.out)] == ["decoder", "vision"]
        assert adopted.verdict.startswith("done: 2 engines in")
        assert command("inspect", bundle, "--verify").code == 0

    def test_a_workspace_that_is_too_small_is_said_with_what_to_give(self, command: Command, bundle: Path) -> None:
        before = contents(bundle)
        done = command("trt", bundle, "--target", "tensorrt", "--component", "vision", "--workspace", 1)
        assert done.code == 2 and "no kernel works in a workspace of 1 bytes: give --workspace more" in done.verdict
        assert contents(bundle) == before

    def test_a_timing_cache_is_refused_where_the_libraries_have_none(self, command: Command, bundle: Path) -> None:
        before = contents(bundle)
        words = ["--target", "tensorrt", "--component", "vision", "--timing-cache", bundle.parent / "cache"]
        for done in (command("trt", bundle, *words), command("trt", bundle, *words, "--dry-run")):
            assert done.code == 2 and "it has no timing cache" in done.verdict and "lower" not in done.err
        assert contents(bundle) == before and not (bundle.parent / "cache").exists()

    def test_an_engine_that_is_not_what_was_asked_for_ends_with_1(
        self, command: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from memvp_export.exporter.engines import entering

        before = contents(bundle)
        monkeypatch.setattr(entering, "verdict", lambda recipe, record: ["it is of another kind"])
        done = command("trt", bundle, "--target", "tensorrt", "--component", "vision", "--json")
        assert done.code == 1 and done.out == "" and contents(bundle) == before
        assert done.err.rstrip().endswith(
            "error: the engine of vision is not what was asked for:\n- it is of another kind"
        )


@pytest.mark.usefixtures("no_tensorrt")
class TestWithoutTensorRT:
    def test_lowering_for_elsewhere_needs_none(self, command: Command, bundle: Path, tmp_path: Path) -> None:
        folder = tmp_path / "carried"
        words = ["trt", bundle, "--lower-only", folder, "--component", "vision", "--json"]
        planned = command(*words, "--bf16", "--dry-run")
        assert planned.code == 0 and json.loads(planned.out)["components"][0]["traced"] is False
        assert not folder.exists()
        done = command(*words)
        assert done.code == 0
        assert json.loads(done.out) == {"folder": str(folder), "recipes": ["vision.fp16.recipe.json"]}
        assert command(*words).code == 2, "it is not empty"

    def test_every_command_says_what_to_install(
        self, command: Command, bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = with_engines(bundle_of("fp16"), tmp_path, "fp16")
        before = contents(root)
        tensorrt, version = "pip install 'memvp-export[", "pip install 'tensorrt==11.4.0.106'"
        lines: Iterable[tuple[list[object], str]] = [
            (["trt", root], tensorrt),
            *((["trt", root, "--target", name, *more], tensorrt) for name in PIP for more in ([], ["--dry-run"])),
            *((["check", root, "--backend", "tensorrt", *more], version) for more in ([], ["--dry-run"])),
            (["run", root, "--backend", "tensorrt", "--text", "What?"], version),
            *((["bench", root, "--backend", "tensorrt", *more], version) for more in ([], ["--dry-run"])),
            (["trt", root, "--target", "tensorrt", "--plugin", "on"], "memvp-export plugin build"),
            (["plugin", "info"], "memvp-export plugin build"),
        ]
        for words, remedy in lines:
            done = command(*words)
            assert done.code == 3 and remedy in done.err and done.out == "", (words, done.err)
        assert contents(root) == before

    def test_bench_measures_what_is_here(self, command: Command, bundle: Path, tmp_path: Path) -> None:
        report, page = tmp_path / "bench.json", tmp_path / "bench.html"
        words = ["bench", bundle, "--backend", "onnxruntime", "--stage", "decode", "--batch", 2]
        words += ["--warmup", 0, "--iterations", 2, "--duration", 0, "--prompt-tokens", 3]
        done = command(*words, "--json", "--report", report, "--html", page)
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert found == json.loads(report.read_text()) and "<html" in page.read_text()[:200].lower()
        assert [lane["backend"] for lane in found["lanes"]] == ["onnxruntime"]
        assert "not stable" in done.err and "decode" in done.verdict, "two calls are too few to be sure"
        table = command(*words)
        assert table.code == 0 and "decode" in table.out
        compared = command(*words, "--compare", report)
        assert compared.code == 0 and "bench.json" in compared.out + compared.err

        planned = command("bench", bundle, "--dry-run", "--json")
        plan = json.loads(planned.out)
        assert planned.code == 0 and any("tensorrt is left out" in note for note in plan["notes"])
        assert planned.verdict == f"dry run: nothing was measured; {len(plan['loads'])} loads are planned"


REFUSED: list[tuple[list[object], str]] = [
    (["trt", "--min-shapes", "pixel_values=1x3x28x28"], "name:1x3x224x224 or name:[1,3,224,224]"),
    (["trt", "--max-shapes", "pixel_values:1x3x"], "name:1x3x224x224 or name:[1,3,224,224]"),
    (["trt", "--opt-shapes", "pixels:1x3x28x28"], "no input is called pixels"),
    (["trt", "--max-shapes", ""], "the shapes '' are not written as"),
    (["trt", "--min-shapes", "", "--dry-run"], "the shapes '' are not written as"),
    (["trt", "--lower-only", "a", "--adopt", "b"], "give one of --lower-only and --adopt"),
    (["trt", "--adopt", "b", "--fp16"], "give no other options with it"),
    (["trt", "--adopt", "b", "--max-batch", 8], "give no other options with it"),
    (["trt", "--adopt", "b", "--dry-run"], "give no other options with it"),
    (["trt", "--adopt", "b"], "b holds no recipes"),
    (["trt", "--workspace", "4X"], "'4X' is not a size: write 512M or 4G"),
    (["trt", "--workspace", "0"], "'0' is not a size"),
    (["trt", "--workspace", ""], "'' is not a size"),
    (["trt", "--fp16", "--int8"], "give one of --fp16, --int8"),
    (["trt", "--int8-weights", "--bf16", "--dry-run"], "give one of --bf16, --int8-weights"),
    (["trt", "--dry-run", "--max-batch", 1000], "batch = 1000; this component takes 1 to 64"),
    (["trt", "--dry-run", "--max-shapes", "pixel_values:1x3x28x27"], "does not fit pixel_values"),
    (["trt", "--dry-run", "--workspace", "4X"], "'4X' is not a size"),
    (["trt", "--lower-only", "a", "--target", "tensorrt-rtx", "--timing-cache", "c"], "has no timing cache"),
    (["trt", "--component", "vision", "--cache", "in_place"], "--cache in_place changes nothing here"),
    (["trt", "--component", "visoin"], "no component visoin; it has vision, decoder"),
    (["trt", "--target", "tensorrt-rtx", "--timing-cache", "cache"], "tensorrt-rtx has no timing cache"),
    (["trt", "--builder-effort", 6], "0 to 5"),
    (["trt", "--embed-plugin"], "give --plugin on too"),
    (["trt", "--max-batch", 0], "batch = 0"),
    (["trt", "--max-batch", 1000], "batch = 1000; this component takes 1 to 64"),
    (["trt", "--max-seq", 100000], "100000"),
    (["trt", "--int8"], "memvp-export calibrate"),
    (["trt", "--target", "tensorrt-9"], "'tensorrt-9' is not one of"),
    (["bench", "--stage", "dream"], "dream"),
    (["bench", "--batch", 0], "batch is 0"),
    (["bench", "--iterations", 0], "iterations is 0"),
    (["bench", "--duration", "inf"], "duration is inf"),
    (["bench", "--percentile", 100], "percentile 100"),
    (["bench", "--backend", "abacus"], "'abacus' is not one of"),
    (["bench", "--backend", "tensorrt"], "Build them with `memvp-export trt"),
    (["bench", "--compare", "nowhere"], "nowhere"),
    (["bench", "--backend", "onnxruntime", "--lowering", "plugin"], "--lowering goes with --backend tensorrt"),
    (["bench", "--backend", "onnxruntime", "--trust-bundle"], "--trust-bundle goes with --backend tensorrt"),
    (["bench", "--backend", "onnxruntime", "--cuda-graphs"], "CUDA graphs are of engines, and none is measured"),
    (["bench", "--cuda-graphs", "--dry-run"], "CUDA graphs are of engines, and none is measured"),
    (["bench", "--cuda-graphs", "--warmup", 0], "warmup is 0; with CUDA graphs it must be at least 1"),
    (["check", "--lowering", "native"], "--lowering goes with --backend tensorrt"),
    (["check", "--backend", "tensorrt", "--dry-run"], "Build them with `memvp-export trt"),
    (["check", "--source", ""], "the name is empty"),
    (["run", "--text", "x", "--lowering", "native"], "--lowering goes with --backend tensorrt"),
    (["run", "--text", "x", "--backend", "tensorrt", "--lowering", "both"], "'both' is not one of"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(map(str, words)) for words, _ in REFUSED])
def test_what_cannot_be_done_is_refused_and_nothing_is_touched(
    words: list[object], message: str, command: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    chosen = ["--target", "tensorrt"] if words[0] == "trt" and not {"--target", "--adopt"} & {*words} else []
    done = command(words[0], bundle, *words[1:], *chosen)
    assert done.code == 2 and message in done.err and done.out == ""
    assert contents(tmp_path) == before


class TestPlugin:
    def test_info_says_what_a_library_is(self, command: Command, tmp_path: Path) -> None:
        library = put_library(tmp_path / "libmemvp.so")
        done = command("plugin", "info", library)
        assert done.code == 0 and all(word in done.out for word in ("VisualMemoryFFN", "bfloat16", "80 87 90"))
        assert done.verdict == f"done: {library} is build {SAID['build_id']} for TensorRT {SAID['headers_version']}"
        found = json.loads(command("plugin", "info", library, "--json").out)
        assert found.items() >= SAID.items() and len(found["sha256"]) == 64

    def test_info_finds_the_library_that_trt_would_take(
        self, command: Command, no_library: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MEMVP_PLUGIN", str(put_library(tmp_path / "named.so")))
        assert "named.so" in command("plugin", "info").verdict
        monkeypatch.setenv("MEMVP_PLUGIN", str(tmp_path / "gone.so"))
        done = command("plugin", "info")
        assert done.code == 2 and "gone.so (MEMVP_PLUGIN)" in done.err

    def test_what_is_no_library_is_refused(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "text.so").write_text("not a library")
        foreign = put_library(tmp_path / "foreign.so", "another_function")
        for path, message in (
            (tmp_path / "text.so", "text.so is no shared library"),
            (foreign, "is not a library that `memvp-export plugin build` made"),
            (tmp_path / "none.so", "there is no plugin library"),
        ):
            done = command("plugin", "info", path)
            assert done.code == 2 and message in done.err and done.out == ""

    def test_build_compiles_to_the_asked_place_after_a_dry_run_that_does_not(
        self, command: Command, no_library: None, tmp_path: Path
    ) -> None:
        if not shutil.which("g++"):
            pytest.skip("no g++")
        headers, output = tmp_path / "headers", tmp_path / "out.so"
        headers.mkdir()
        (headers / "NvInfer.h").touch()
        names = ("MAJOR", "MINOR", "PATCH")
        lines = [f"#define NV_TENSORRT_{name} {part}\n" for name, part in zip(names, (10, 0, 0), strict=True)]
        (headers / "NvInferVersion.h").write_text("".join(lines))
        nvcc = put_nvcc(tmp_path / "bin", put_library(tmp_path / "ready.so"))
        words = ["plugin", "build", "-o", output, "--headers", headers, "--nvcc", nvcc, "--arch", "80,90", "--json"]
        planned = command(*words, "--dry-run")
        assert planned.code == 0 and json.loads(planned.out)["archs"] == ["80", "90"]
        assert planned.verdict.startswith("dry run: nothing was compiled") and not output.exists()
        done = command(*words)
        assert done.code == 0, done.err
        assert json.loads(done.out)["path"] == str(output) and output.is_file()
        assert done.verdict.startswith(f"done: {output} (build {SAID['build_id']})")

    def test_build_refuses_wrong_words(self, command: Command, no_library: None, tmp_path: Path) -> None:
        nvcc = put_nvcc(tmp_path / "bin")
        for words, code, message in (
            (["--nvcc", tmp_path / "none"], 2, "is not a program"),
            (["--nvcc", nvcc, "--headers", tmp_path], 2, "where there is no NvInfer.h"),
            (["--nvcc", nvcc, "--arch", "70"], 3, "does not compile for 70"),
            (["--nvcc", nvcc, "--arch", "ninety"], 2, "ninety"),
            (["--nvcc", nvcc, "--arch", ""], 2, "--arch is empty"),
            (["--nvcc", ""], 2, "is not a program"),
        ):
            done = command("plugin", "build", "-o", tmp_path / "out.so", *words)
            assert done.code == code and message in done.err and done.out == ""
        assert not (tmp_path / "out.so").exists()
