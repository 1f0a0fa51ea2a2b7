"""Commands parse, call and render: nothing heavy for help, clean JSON, a verdict as the last line, no idle option."""

import ast
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np
import pytest
from memvp_export import cli
from memvp_export.calibration.calibrate import calibrate
from memvp_export.exporter import run as runner
from memvp_export.exporter.bench.options import Options
from memvp_export.exporter.bundle import Bundle, change
from memvp_export.exporter.commands import run_answers, source_options
from memvp_export.exporter.commands.options import PRECISIONS, QUANTIZED
from memvp_export.exporter.commands.plugin import plugin
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.errors import VerdictError
from memvp_export.exporter.parity.samples import read_cases
from memvp_export.exporter.text_to_image import ImageSettings

MAIN = "from memvp_export.cli import main; main()"
COMMANDS = {
    **{name: found for name, found in cli.cli.commands.items() if not isinstance(found, click.Group)},
    **{f"plugin {name}": found for name, found in plugin.commands.items()},
}
# Options that a command hands over as a whole; `trt` has a flag for each precision.
FLAGS = {name.replace("-", "_") for name in (*PRECISIONS.choices, *QUANTIZED.choices)}
HANDED_OVER = {
    "bench": {field.name for field in fields(Options)},
    "trt": FLAGS | {field.name for field in fields(Request)},
    "calibrate": set(signature(calibrate).parameters),
    "run": set(signature(runner.open_session).parameters) | {field.name for field in fields(ImageSettings)},
}


Command = Callable[..., Any]


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[[str], Path]) -> Path:
    return bundle_of("fp32")


@pytest.fixture
def questions(bundle: Path, tmp_path: Path) -> Path:
    """Three questions, two of which say what the answer is: one of them what the model says."""
    lines = [json.loads(line) for line in (bundle / "samples/requests.jsonl").read_text().splitlines()]
    answers = [json.loads(line)["text"] for line in (bundle / "samples/answers.jsonl").read_text().splitlines()]
    lines[0] |= {"answer": answers[0], "image": str(bundle / "samples" / lines[0]["image"])}
    lines[1] |= {"answer": "nothing of the kind", "image": str(bundle / "samples" / lines[1]["image"])}
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def tensors(bundle: Path, tmp_path: Path) -> Path:
    (case,) = (case for case in read_cases(Bundle.open(bundle)) if case.component == "vision")
    np.savez(tmp_path / "in.npz", **case.inputs)  # type: ignore[arg-type]
    return tmp_path / "in.npz"


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def python(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)


def test_help_of_every_command_loads_nothing_heavy() -> None:
    code = f"""
import sys
from memvp_export.cli import main
for words in [["--help"], ["--version"], *([*name.split(), "--help"] for name in {list(COMMANDS)})]:
    sys.argv = ["memvp-export", *words]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, words
print("loaded", sorted({{"torch", "tensorrt", "onnx", "onnxruntime", "numpy", "rich", "PIL"}} & set(sys.modules)))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"
    assert all(f"memvp-export {name} [OPTIONS]" in done.stdout for name in COMMANDS)


def test_help_is_there_at_once() -> None:
    def seconds() -> float:
        before = os.times()
        python(MAIN, "--help")
        after = os.times()
        # Processor time, which other work on the machine does not move.
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.3


def test_a_finished_bundle_is_used_without_torch_and_without_tensorrt(
    bundle: Path, questions: Path, tensors: Path, tmp_path: Path
) -> None:
    lines = [
        ["inspect", bundle, "--verify"],
        ["run", bundle, "--text", "What?", "--image", bundle / "samples/images/0.png"],
        ["run", bundle, "--data", questions, "-o", tmp_path / "out.jsonl"],
        ["run", bundle, "--component", "vision", "--inputs", tensors, "--save-outputs", tmp_path / "out.npz"],
        ["check", bundle],
    ]
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["torch", "onnxscript", "tensorrt", "safetensors", "huggingface_hub"]))
from memvp_export.cli import main
for words in {[[str(word) for word in line] for line in lines]}:
    sys.argv = ["memvp-export", *words]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, words
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.jsonl").is_file() and (tmp_path / "out.npz").is_file()


def reporting(bundle: Path, source: Path, questions: Path, tensors: Path, folder: Path) -> dict[str, list[object]]:
    return {
        "onnx": ["onnx", source, "-o", folder / "new", "--dry-run"],
        "inspect": ["inspect", bundle],
        "check": ["check", bundle],
        "text": ["run", bundle, "--text", "What?"],
        "choices": ["run", bundle, "--text", "Which?", "--choices", "sea", "--choices", "sun"],
        "data": ["run", bundle, "--data", questions, "-o", folder / "out.jsonl"],
        "data, dry": ["run", bundle, "--data", questions, "--dry-run"],
        "component": [
            *("run", bundle, "--component", "vision", "--inputs", tensors),
            *("--save-outputs", folder / "out.npz"),
        ],
        "doctor": ["doctor"],
    }


JSON_KEYS = {
    "onnx": {"family", "precision", "components", "bytes", "fits"},
    "inspect": {"kind", "components", "bytes"},
    "check": {"passed", "verdict", "kinds", "outputs", "answers", "image_effect", "threshold"},
    "text": {"id", "text", "ids", "truncated"},
    "choices": {"text", "choice"},
    "data": {"answered", "judged", "right"},
    "data, dry": {"requests"},
    "component": {"visual_memory"},
    "doctor": {"checks", "exit_code"},
}


@pytest.mark.parametrize("name", JSON_KEYS)
def test_json_is_all_that_standard_output_holds(
    name: str, command: Command, bundle: Path, odd_source: Path, questions: Path, tensors: Path, tmp_path: Path
) -> None:
    words = reporting(bundle, odd_source, questions, tensors, tmp_path)[name]
    done = command(*words, "--json")
    assert done.code == 0, done.err
    assert strict_json(done.out).keys() >= JSON_KEYS[name]


VERDICTS = {
    "onnx": "dry run: nothing was written",
    "inspect": "is a whole bundle",
    "check": "PARITY against the golden samples",
    "data": "done: 3 requests answered into",
    "data, dry": "holds 3 requests; nothing was answered",
    "component": "done: 1 outputs of vision in",
    "doctor": "done: export and ONNX Runtime work here",
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_last_line_is_the_verdict(
    name: str, command: Command, bundle: Path, odd_source: Path, questions: Path, tensors: Path, tmp_path: Path
) -> None:
    done = command(*reporting(bundle, odd_source, questions, tensors, tmp_path)[name])
    assert done.code == 0 and VERDICTS[name] in done.verdict


def test_accuracy_is_of_the_whole_file(command: Command, bundle: Path, questions: Path, tmp_path: Path) -> None:
    words = ["run", bundle, "--data", questions, "-o", tmp_path / "out.jsonl"]
    done = command(*words)
    assert done.verdict.endswith("; 1 of 2 are right (50.0%)")
    assert command(*words, "--batch", 1, "--no-resume").verdict == done.verdict
    found = strict_json(command(*words, "--json").out)
    assert (found["judged"], found["right"]) == (2, 1)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_a_run_that_goes_on_says_how_many_answers_there_are_in_all(
    command: Command, bundle: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(requests: Any, answers: Any) -> NoReturn:
        raise KeyboardInterrupt

    words = ["run", bundle, "--data", questions, "-o", tmp_path / "out.jsonl", "--batch", 1]
    with monkeypatch.context() as patch:
        patch.setattr(run_answers, "_warn", stop)
        assert command(*words).code == 130
    done = command(*words)
    assert f"done: 2 requests answered into {tmp_path / 'out.jsonl'}, 3 with those of an earlier run;" in done.verdict


def test_check_writes_its_report_and_its_page(command: Command, bundle: Path, questions: Path, tmp_path: Path) -> None:
    page, report = tmp_path / "deep" / "page.html", tmp_path / "report.json"
    done = command("check", bundle, "--data", questions, "--html", page, "--report", report, "--json", "--bisect")
    assert done.code == 0
    whole = strict_json(done.out)
    assert strict_json(report.read_text()) == whole and whole["bisect"]["passed"] is True
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")


@pytest.mark.parametrize("option", ["html", "report"])
@pytest.mark.parametrize("name", ["check", "bench"])
def test_a_dry_run_takes_no_place_for_a_report(
    name: str, option: str, command: Command, bundle: Path, tmp_path: Path
) -> None:
    done = command(name, bundle, "--dry-run", f"--{option}", tmp_path / "new")
    assert done.code == 2 and f"--{option} does not go with --dry-run: there is no report to write" in done.verdict
    assert not (tmp_path / "new").exists()


def test_a_failed_check_exits_with_1_and_says_so_last(command: Command, bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    with change(copy) as (writer, manifest):
        answers = copy / "samples/answers.jsonl"
        answers.write_text(answers.read_text().replace('"ids": [', '"ids": [9, '))
        writer.record("samples/answers.jsonl")
        writer.write_manifest(manifest)
    done = command("check", copy, "--json")
    assert done.code == 1 and done.verdict.startswith("PARITY FAILED")
    assert strict_json(done.out)["passed"] is False


def test_choices_are_answered_with_a_letter_or_not_at_all(command: Command, bundle: Path) -> None:
    words = ["run", bundle, "--text", "Which?", "--choices", "sea", "--choices", "sun", "--hint", "N/A"]
    found = strict_json(command(*words, "--json").out)
    assert len(found["ids"]) <= 1 and found["choice"] in (-1, 0, 1)
    done = command(*words)
    if found["choice"] < 0:
        assert done.verdict == "note: the answer names none of the choices"
    else:
        assert done.out.strip().endswith(f"({['sea', 'sun'][found['choice']]})")


def test_generation_options_reach_the_model(command: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ids(*words: object) -> list[int]:
        return list(strict_json(command("run", bundle, "--text", "What?", "--json", *words).out)["ids"])

    greedy = ids("--max-new-tokens", 6)
    assert len(greedy) <= 6 and ids("--max-new-tokens", 1) == greedy[:1]
    hot = ["--max-new-tokens", 6, "--temperature", 5]
    drawn = {tuple(ids(*hot, "--seed", seed)) for seed in range(4)}
    assert len(drawn) > 1 and tuple(ids(*hot, "--seed", 0)) in drawn
    assert ids(*hot, "--top-p", 1e-9) == greedy


MISPLACED = [
    (["--text", "x", "--data", "y"], "give one of --text, --data and --component"),
    ([], "give one of --text, --data and --component"),
    (["--text", "x", "-o", "y"], "--output does not go with --text: it is for bundles that make images"),
    (["--text", "x", "--labels", "missing.txt"], "labels go with models that compare an image with them"),
    (["--text", "x", "--batch", 2], "--batch does not go with --text"),
    (["--text", "x", "--dry-run"], "--dry-run does not go with --text"),
    (["--text", "x", "--no-resume"], "--no-resume does not go with --text"),
    (["--text", "x", "--save-outputs", "y"], "--save-outputs does not go with --text"),
    (["--text", "x", "--hint", "y"], "--hint goes with --choices"),
    (["--text", "x", "--choices", "y", "--temperature", "1"], "--temperature does not go with --choices"),
    (["--text", "x", "--choices", "y", "--max-new-tokens", "1"], "--max-new-tokens does not go with --choices"),
    (["--text", "x", "--seed", "0"], "--seed does not go with a temperature of 0: nothing is drawn"),
    (["--text", "x", "--top-p", "0.5", "--temperature", "0"], "--top-p does not go with a temperature of 0"),
    (["--data", "x", "-o", "y", "--seed", "1"], "--seed does not go with a temperature of 0"),
    (["--data", "x", "-o", "y", "--image", "z"], "--image does not go with --data"),
    (["--data", "x", "-o", "y", "--choices", "z"], "--choices does not go with --data"),
    (["--data", "questions.jsonl"], "--data needs -o"),
    (["--component", "vision", "--inputs", "x"], "--component needs --inputs and --save-outputs"),
    (["--component", "vision", "--seed", "0"], "--seed does not go with --component"),
    (["--component", "vision", "--temperature", "1"], "--temperature does not go with --component"),
]


@pytest.mark.parametrize(("words", "message"), MISPLACED, ids=[" ".join(map(str, words)) for words, _ in MISPLACED])
def test_an_option_that_would_do_nothing_is_refused(
    words: list[object], message: str, command: Command, bundle: Path
) -> None:
    done = command("run", bundle, *words)
    assert done.code == 2 and message in done.verdict and done.out == ""


def test_no_option_is_idle() -> None:
    """Every parameter of a command is read: as a name in its function, or by its name out of the flags."""
    folder = Path(source_options.__file__).parent
    for name, found in COMMANDS.items():
        assert found.callback is not None
        word = name.split()[0]
        # `run` hands its flags to the files of its ways, `onnx` to that of the source.
        handed = folder.glob({"onnx": "source_options.py"}.get(word, f"{word}_*.py"))
        files = [folder / f"{word}.py", *handed]
        trees = [ast.parse(file.read_text()) for file in files]
        (function,) = (node for node in trees[0].body if getattr(node, "name", None) == found.callback.__name__)
        body = ast.Module(function.body, [])
        read = {node.id for node in ast.walk(body) if isinstance(node, ast.Name)}
        looked_up = {
            node.slice.value
            for tree in trees
            for node in ast.walk(tree)
            if isinstance(node, ast.Subscript) and _is_text(node.slice)
        }
        if name in HANDED_OVER:
            read |= HANDED_OVER[name]
        for parameter in found.params:
            if isinstance(parameter, click.Argument) or parameter.name not in source_options.FILES:
                assert parameter.name in read | looked_up, f"{name} --{parameter.name}"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_kebab_case_name_and_every_command_says_what_it_does(name: str) -> None:
    found = COMMANDS[name]
    assert found.get_short_help_str()
    for parameter in found.params:
        for flag in parameter.opts if isinstance(parameter, click.Option) else []:
            assert "_" not in flag and flag.lower() == flag


def test_every_command_that_reports_has_json() -> None:
    without = [name for name in COMMANDS if "--json" not in {o for p in COMMANDS[name].params for o in p.opts}]
    assert without == []


def test_export_flags_take_the_place_of_a_model_toml(command: Command, odd_source: Path, tmp_path: Path) -> None:
    words = ["--family", "memvp-llama", "--task", "vqa", "--base", odd_source / "weights/base"]
    words += ["--vision", odd_source / "ViT.pt", "--adapter", odd_source / "checkpoint-19.pth"]
    words += ["--tokenizer", odd_source / "weights/tokenizer.model", "--option", "adapter_scale=0.3"]
    done = command("onnx", *words, "-o", tmp_path / "new", "--dry-run", "--json", "--precision", "bf16")
    plan = strict_json(done.out)
    assert done.code == 0 and (plan["precision"], plan["opset"]) == ("bf16", 22)
    assert plan["config"]["adapter_scale"] == 0.3
    assert not (tmp_path / "new").exists()


def test_export_options_reach_the_export(
    command: Command, bundle: Path, odd_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memvp_export.exporter import export

    told: dict[str, Any] = {}

    def export_onnx(*args: Any, **options: Any) -> Bundle:
        told.update(zip(("source", "output", "precision", "opset", "samples"), args, strict=False), **options)
        return Bundle.open(bundle)

    monkeypatch.setattr(export, "export_onnx", export_onnx)
    words = ["--precision", "fp16", "--opset", "21", "--samples", "s.jsonl", "--no-golden", "--overwrite", "--json"]
    done = command("onnx", odd_source, "-o", tmp_path / "b", *words)
    assert done.code == 0 and done.verdict.startswith("done: ")
    assert strict_json(done.out).keys() == {"bundle", "bytes", "precision", "stages", "peak_mib"}
    expected = {"output": tmp_path / "b", "precision": "fp16", "opset": 21, "samples": Path("s.jsonl")}
    assert expected.items() <= told.items()
    assert (told["golden"], told["overwrite"]) == (False, True)


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def call(*args: object, **options: object) -> NoReturn:
        raise error

    return call


FAILURES: dict[str, tuple[BaseException, int, str]] = {
    "the verdict is no": (VerdictError("parity was not shown"), 1, "error: parity was not shown"),
    "permission": (PermissionError(errno.EACCES, "Permission denied", "x.json"), 3, "error: x.json: Permission denied"),
    "disk": (OSError(errno.ENOSPC, "No space left on device"), 3, "error: No space left on device"),
    "memory": (MemoryError(), 3, "error: this machine has too little memory for that"),
    "a bug": (ZeroDivisionError("division by zero"), 4, "error: this is a bug in memvp-export (ZeroDivisionError"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "error: interrupted"),
    "click's abort": (click.Abort(), 130, "error: interrupted"),
}


@pytest.mark.parametrize(("error", "code", "message"), FAILURES.values(), ids=list(FAILURES))
def test_every_kind_of_failure_has_its_exit_code(
    error: BaseException, code: int, message: str, command: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run", raising(error))
    done = command("run", bundle, "--text", "x")
    assert done.code == code and done.verdict.startswith(message)
    assert ("Traceback" in done.err) == (code == 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_arrives_in_a_destructor_is_not_lost(
    number: signal.Signals, command: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def long_work(*args: object, **options: object) -> NoReturn:
        Interrupted()
        time.sleep(30)
        pytest.fail("the interrupt was lost")

    monkeypatch.setattr(runner, "run", long_work)
    done = command("run", bundle, "--text", "x")
    assert done.code == 130 and done.verdict.startswith("error: interrupted")


@pytest.mark.parametrize("package", ["torch", "onnxscript", "safetensors"])
def test_a_missing_package_is_named_with_its_pip_line(
    package: str, command: Command, odd_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    done = command("onnx", odd_source, "-o", tmp_path / "b")
    assert done.code == 3 and f"{package} is not installed" in done.verdict
    assert "pip install 'memvp-export[export]'" in done.verdict


def test_a_reader_that_goes_away_is_no_error(bundle: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "inspect", str(bundle)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        errors = child.stderr.read().decode()
    assert child.returncode == 0 and "Traceback" not in errors and "Broken" not in errors
