"""Sources, flags and places that are wrong: one clear message, the right exit code, nothing under the asked name."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.parity.samples import read_cases

Command = Callable[..., Any]
FILES = {
    "base": "weights/base/consolidated.00.pth",
    "params": "weights/base/params.json",
    "vision": "ViT.pt",
    "adapter": "checkpoint-19.pth",
    "tokenizer": "weights/tokenizer.model",
}


def refused(command: Command, source: Path, message: str, *words: object, code: int = 2) -> None:
    """The export of `source` ends with `code` and `message`, and leaves nothing beside it."""
    output = source.parent / "out"
    before = sorted(source.parent.iterdir())
    done = command("onnx", source, "-o", output, *words)
    assert (done.code, message in done.err) == (code, True), done.err
    assert sorted(source.parent.iterdir()) == before and done.out == ""


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut_a_little(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("<!doctype html><title>404 Not Found</title>")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [_half, _cut_a_little, _garbage, _zeros, _empty, _text, Path.unlink, _folder]


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__.strip("_") for damage in DAMAGES])
@pytest.mark.parametrize("key", FILES)
def test_damaged_files_are_named(
    key: str, damage: Callable[[Path], object], command: Command, source: Path, no_trace: None
) -> None:
    damage(source / FILES[key])
    refused(command, source, Path(FILES[key]).name if damage is not Path.unlink else str(source))


@pytest.mark.parametrize(("key", "other"), [(a, b) for a in FILES for b in FILES if a != b])
def test_files_of_another_kind_are_refused(key: str, other: str, command: Command, source: Path) -> None:
    shutil.copyfile(source / FILES[other], source / "other")
    (source / "other").replace(source / FILES[key])
    refused(command, source, "weights/base" if key == "base" else Path(FILES[key]).name)


class Runs:
    """Unpickles by running a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["torch.save", "pickle", "legacy torch.save"])
@pytest.mark.parametrize("key", ["base", "vision", "adapter"])
def test_a_pickle_that_would_run_code_does_not(key: str, form: str, command: Command, source: Path) -> None:
    marker = source / "ran"
    content = {"model": {"adapter_emb1": torch.ones(1)}, "x": Runs(marker)}
    if form == "pickle":
        (source / FILES[key]).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, source / FILES[key], _use_new_zipfile_serialization=form == "torch.save")
    refused(command, source, Path(FILES[key]).name)
    assert not marker.exists()


def _edit_tensor(path: Path, name: str, value: float) -> None:
    data = torch.load(path, weights_only=False)
    tensors = data.get("model", data)
    tensors[name].view(-1)[-1] = value
    torch.save(data, path)


WEIGHTS = [
    ("base", "layers.2.attention.wq.weight", float("nan"), ()),
    ("base", "tok_embeddings.weight", float("inf"), ()),
    ("vision", "visual.conv1.weight", float("nan"), ()),
    ("adapter", "module.adapter_emb2", float("nan"), ()),
    ("adapter", "module.adapter_proj.fc1.bias", float("-inf"), ()),
    ("adapter", "module.adapter_emb1", 1e6, ("--precision", "fp16")),
]


@pytest.mark.parametrize(("key", "tensor", "value", "words"), WEIGHTS, ids=[f"{t}={v}" for _, t, v, _ in WEIGHTS])
def test_weights_that_are_no_numbers_or_too_large_are_named(
    key: str, tensor: str, value: float, words: tuple[str, ...], command: Command, source: Path, no_trace: None
) -> None:
    _edit_tensor(source / FILES[key], tensor, value)
    done = command("onnx", source, "-o", source.parent / "out", *words)
    assert done.code == 2 and tensor.removeprefix("module.") in done.err
    assert "NaN or infinite" in done.err or "does not fit" in done.err
    assert [path.name for path in source.parent.iterdir()] == ["source"]


def _missing_tensor(source: Path) -> None:
    path = source / FILES["adapter"]
    data = torch.load(path, weights_only=False)
    del data["model"]["module.adapter_emb2"]
    data["model"]["module.surplus"] = torch.ones(2)
    torch.save(data, path)


def _toml(old: str, new: str) -> Callable[[Path], object]:
    def edit(source: Path) -> None:
        text = (source / "model.toml").read_text()
        assert old in text
        (source / "model.toml").write_text(text.replace(old, new))

    return edit


SOURCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a typo in a key": (_toml("family", "famly"), "did you mean 'family'?"),
    "a typo in a file's key": (_toml("vision =", "visoin ="), "did you mean 'vision'?"),
    "a typo in an option": (_toml("max_new_tokens", "max_new_token"), "did you mean 'max_new_tokens'?"),
    "a typo in the family": (_toml("memvp-llama", "memvp-lama"), "did you mean 'memvp-llama'?"),
    "a family of another version": (_toml("memvp-llama", "memvp-opt"), "unknown family 'memvp-opt'"),
    "an unknown task": (_toml('"vqa"', '"nlvr2"'), "no task 'nlvr2' (known: vqa)"),
    "no family": (_toml('family = "memvp-llama"', ""), "family is missing"),
    "no base": (_toml('base = "weights/base"', ""), "files.base is missing"),
    "no files": (_toml("[files]", "[weights]"), "unknown key 'weights'"),
    "a path that does not exist": (_toml("ViT.pt", "ViT-L-14.pt"), "ViT-L-14.pt"),
    "a path that is a number": (_toml('"ViT.pt"', "14"), "needs a path in quotes"),
    "an option of another type": (_toml("= 4", '= "four"'), "max_new_tokens is 'four', needs an integer"),
    "an option out of range": (_toml("= 4", "= 0"), "max_new_tokens is 0, needs an integer from 1"),
    "options that contradict": (_toml("= 4", "= 600"), "max_new_tokens is larger than max_sequence"),
    "no TOML": (_toml("[files]", "[files"), "is not TOML"),
    "no text": (lambda source: (source / "model.toml").write_bytes(b"\xff\xfe\x00"), "is not TOML"),
    "an empty file": (lambda source: (source / "model.toml").write_text(""), "family is missing"),
    "no model.toml": (lambda source: (source / "model.toml").unlink(), "is a folder without a model.toml"),
    "no folder": (shutil.rmtree, "does not exist"),
    "a tensor missing and one too many": (_missing_tensor, "adapter_emb2"),
    "an adapter of another width": (
        lambda source: _replace_tensor(source / FILES["adapter"], "module.adapter_emb1", torch.ones(1, 290, 97)),
        "adapter_emb1 has rows of 97, and adapter_proj.fc2.weight [96, 24] makes others",
    ),
}


def _replace_tensor(path: Path, name: str, value: torch.Tensor) -> None:
    data = torch.load(path, weights_only=False)
    data["model"][name] = value
    torch.save(data, path)


@pytest.mark.parametrize(("damage", "message"), SOURCES.values(), ids=list(SOURCES))
def test_a_source_that_is_wrong_says_how(
    damage: Callable[[Path], object], message: str, command: Command, source: Path
) -> None:
    damage(source)
    refused(command, source, message)


def test_all_that_is_wrong_with_a_source_is_said_at_once(command: Command, source: Path) -> None:
    _toml("vision =", "visoin =")(source)
    _toml("= 4", "= 0")(source)
    _toml("checkpoint-19", "checkpoint-20")(source)
    done = command("onnx", source, "-o", source.parent / "out")
    assert all(word in done.err for word in ("visoin", "max_new_tokens", "checkpoint-20"))


EXPORT_WORDS: list[tuple[list[str], int, str]] = [
    (["--precision", "int4"], 2, "'int4' is not one of 'fp32', 'fp16', 'bf16'"),
    (["--opset", "12"], 2, "opset 12 cannot be exported"),
    (["--opset", "x"], 2, "'x' is not a valid integer"),
    (["--option", "max_sequence"], 2, "--option 'max_sequence' is not KEY=VALUE"),
    (["--option", "max_sequence=64"], 2, "give a model.toml or flags in its place, not both"),
    (["--family", "memvp-llama"], 2, "give a model.toml or flags in its place, not both"),
    (["--samples", "no-such.jsonl"], 2, "no-such.jsonl is not a file"),
    (["--samples", "no-such.jsonl", "--no-golden"], 2, "one or the other"),
    (["--no-such-option"], 2, "No such option"),
]


@pytest.mark.parametrize(("words", "code", "message"), EXPORT_WORDS, ids=[" ".join(w) for w, _, _ in EXPORT_WORDS])
def test_export_flags_that_are_wrong(
    words: list[str], code: int, message: str, command: Command, odd_source: Path, tmp_path: Path
) -> None:
    for dry in ([], ["--dry-run"]):
        done = command("onnx", odd_source, "-o", tmp_path / "out", *words, *dry)
        assert done.code == code and message in done.err and done.out == "", dry
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a source"),
        (["--family", "memvp-llama"], "give a source"),
        (["--base", "x"], "family is missing"),
        (["--family", "memvp-llama", "--base", "x"], "files.vision is missing"),
        (["--family", "memvp-llama", "--base", "hf:"], "files.base"),
        (["no-such-folder"], "no-such-folder does not exist"),
    ],
)
def test_sources_on_the_command_line_that_are_wrong(
    words: list[str], message: str, command: Command, tmp_path: Path
) -> None:
    done = command("onnx", *words, "-o", tmp_path / "out")
    assert done.code == 2 and message in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["onnx", "source", "-o", ""],
        ["onnx", "source", "-o", " ", "--dry-run"],
        ["run", "bundle", "--data", "", "-o", "out"],
        ["check", "bundle", "--html", ""],
        ["trt", "bundle", "--lower-only", ""],
        ["inspect", ""],
        ["demo", ""],
    ],
    ids=" ".join,
)
def test_an_empty_name_is_not_the_current_folder(words: list[str], command: Command) -> None:
    done = command(*words)
    assert done.code == 2 and "the name is empty" in done.verdict


@pytest.mark.parametrize(
    ("prepare", "words", "code", "message"),
    [
        (Path.touch, [], 2, "--overwrite"),
        (Path.touch, ["--overwrite"], 2, "is not a bundle: it will not be replaced"),
        (lambda out: (out.mkdir(), (out / "work").touch()), ["--overwrite"], 2, "is not a bundle"),
        (lambda out: (out.mkdir(), (out / "work").touch()), ["--dry-run"], 2, "--overwrite"),
    ],
)
def test_an_output_that_exists_is_left_alone(
    prepare: Callable[[Path], object], words: list[str], code: int, message: str, command: Command, source: Path
) -> None:
    prepare(source.parent / "out")
    refused(command, source, message, *words, code=code)


def test_places_that_cannot_be_written(command: Command, odd_source: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    inputs = tmp_path / "in.npz"
    (case,) = (case for case in read_cases(Bundle.open(bundle)) if case.component == "vision")
    np.savez(inputs, **case.inputs)  # type: ignore[arg-type]
    data = tmp_path / "in.jsonl"
    data.write_text('{"id": "1", "text": "x"}')
    place = tmp_path / "file" / "out"
    for words in (
        ["onnx", odd_source, "-o", place],
        ["run", bundle, "--data", data, "-o", place],
        ["run", bundle, "--component", "vision", "--inputs", inputs, "--save-outputs", place],
        ["check", bundle, "--report", place],
        ["check", bundle, "--html", place],
    ):
        done = command(*words)
        assert done.code == 3 and str(tmp_path / "file") in done.err, words
        assert ("rel. L2" in done.out) == (words[0] == "check"), "what was found is not lost"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "in.jsonl", "in.npz"]


def test_check_refuses_the_source_of_another_bundle(command: Command, bundle: Path, source: Path) -> None:
    _toml("max_new_tokens = 4", "max_sequence = 256")(source)
    done = command("check", bundle, "--source", source)
    assert done.code == 2 and "was not made from this source" in done.err
