"""What users and attackers do: each gives one clear message, the right exit code, and nothing under the asked name."""

import json
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
import torch
from memvp_export import cli
from memvp_export.exporter import export
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.models.component import Component
from memvp_export.exporter.parity.samples import read_cases
from PIL import Image


class Result(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Result]
FILES = {
    "base": "weights/base/consolidated.00.pth",
    "params": "weights/base/params.json",
    "vision": "ViT.pt",
    "adapter": "checkpoint-19.pth",
    "tokenizer": "weights/tokenizer.model",
}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run a command line in this process; whatever it says must be no traceback and one error at most."""
    numbers = (signal.SIGTERM, signal.SIGALRM)
    handlers = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    def call(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["memvp-export", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            sys.exit(0)
        shown = capsys.readouterr()
        result = Result(int(stop.value.code or 0), shown.out, shown.err)
        assert "Traceback" not in result.err
        assert result.err.lower().count("error: ") == (result.code != 0), result.err
        return result

    yield call
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def source(odd_source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(odd_source, tmp_path / "source"))


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[[str], Path]) -> Path:
    return bundle_of("fp32")


@pytest.fixture
def no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that hold the weights and nothing else: what is wrong with a weight does not depend on the graph."""

    def trace(component: Component, precision: str, opset: int) -> ir.Model:
        graph = ir.Graph([], [], nodes=[], name=component.name, opset_imports={"": opset})
        kinds = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
        for name, weight in component.weights.items():
            kind = ir.DataType.FLOAT if weight.float32 else kinds[precision]
            graph.initializers[name] = ir.Value(name=name, shape=ir.Shape(weight.shape), type=ir.TensorType(kind))
        return ir.Model(graph, ir_version=10)

    monkeypatch.setattr(export, "trace", trace)


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
    "a family of another version": (_toml("memvp-llama", "apt-vilt"), "not supported yet"),
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
        "adapter_emb2 is [290, 96], needs [290, 97]",
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
    done = command("onnx", odd_source, "-o", tmp_path / "out", *words)
    assert done.code == code and message in done.err
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


def _bundle_file(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(edit((root / name).read_bytes()))


BUNDLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "does not exist"),
    "a folder of something else": (lambda root: (root / "manifest.json").unlink(), "is not a bundle"),
    "a file missing": (lambda root: (root / "graphs/decoder.onnx.data").unlink(), "is cut short"),
    "a file shorter": (_bundle_file("graphs/decoder.onnx.data", lambda b: b[:-1]), "is cut short"),
    "a file longer": (_bundle_file("graphs/vision.onnx", lambda b: b + b"!"), "is edited"),
    "the manifest cut": (_bundle_file("manifest.json", lambda b: b[:-20]), "is cut short"),
    "the manifest edited": (_bundle_file("manifest.json", lambda b: b.replace(b'"vqa"', b'"vqb"')), "is edited"),
    "newer": (_bundle_file("manifest.json", lambda b: b.replace(b'"schema": 1', b'"schema": 2')), "is newer"),
}


@pytest.mark.parametrize(("damage", "message"), BUNDLES.values(), ids=list(BUNDLES))
def test_every_command_refuses_a_damaged_bundle(
    damage: Callable[[Path], object], message: str, command: Command, bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    damage(copy)
    for words in (["inspect"], ["check"], ["run", "--text", "x"], ["run", "--component", "vision"]):
        extra = ["--inputs", "x", "--save-outputs", "y"] if "--component" in words else []
        done = command(words[0], copy, *words[1:], *extra)
        assert done.code == 2 and message in done.err and str(copy) in done.err and done.out == ""


def test_a_flipped_byte_is_found_by_check_and_verify(command: Command, bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    data = bytearray((copy / "graphs/decoder.onnx.data").read_bytes())
    data[100_000] ^= 1
    (copy / "graphs/decoder.onnx.data").write_bytes(data)
    assert command("inspect", copy).code == 0
    for words in (["inspect", copy, "--verify"], ["check", copy]):
        done = command(*words)
        assert done.code == 2 and "is edited: the bytes of graphs/decoder.onnx.data" in done.err


def picture() -> Image.Image:
    y, x = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([4 * x, 6 * y, 255 - 2 * x - 3 * y], -1).astype(np.uint8))


def _rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().transpose(Image.Transpose.ROTATE_90).save(path, "PNG", exif=exif)


GOOD_IMAGES: dict[str, Callable[[Path], object]] = {
    "grey": lambda path: picture().convert("L").save(path, "PNG"),
    "black and white": lambda path: picture().convert("1").save(path, "PNG"),
    "grey, 16 bits": lambda path: Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(path, "PNG"),
    "CMYK": lambda path: picture().convert("CMYK").save(path, "JPEG"),
    "alpha": lambda path: picture().convert("RGBA").save(path, "PNG"),
    "palette with a transparent colour": lambda path: picture().convert("P").save(path, "PNG", transparency=0),
    "1 pixel": lambda path: picture().crop((0, 0, 1, 1)).save(path, "PNG"),
    "1 pixel high": lambda path: picture().crop((0, 0, 60, 1)).save(path, "PNG"),
    "EXIF rotation": _rotated,
    "animation": lambda path: picture().save(path, "GIF", save_all=True, append_images=[picture().rotate(90)]),
}


@pytest.mark.parametrize("make", GOOD_IMAGES.values(), ids=list(GOOD_IMAGES))
def test_odd_images_are_answered(
    make: Callable[[Path], object], command: Command, bundle: Path, tmp_path: Path
) -> None:
    make(tmp_path / "image")
    done = command("run", bundle, "--text", "What?", "--image", tmp_path / "image", "--json")
    assert done.code == 0 and json.loads(done.out)["ids"]


def test_a_rotated_image_is_seen_upright(command: Command, bundle: Path, tmp_path: Path) -> None:
    _rotated(tmp_path / "rotated.png")
    picture().save(tmp_path / "upright.png")
    words = ["run", bundle, "--text", "What?", "--json", "--max-new-tokens", "8", "--image"]
    rotated, upright = (command(*words, tmp_path / name).out for name in ("rotated.png", "upright.png"))
    assert rotated == upright


def _cut_image(path: Path) -> None:
    picture().save(path, "PNG")
    _half(path)


BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a text": (_text, "is not an image"),
    "garbage": (_garbage, "is not an image"),
    "truncated": (_cut_image, "cut short or damaged"),
    "empty": (_empty, "it is empty"),
    "missing": (lambda path: None, "does not exist"),
    "a folder": (Path.mkdir, "is a folder"),
}


@pytest.mark.parametrize(("make", "message"), BAD_IMAGES.values(), ids=list(BAD_IMAGES))
def test_what_is_no_image_is_refused(
    make: Callable[[Path], object], message: str, command: Command, bundle: Path, tmp_path: Path
) -> None:
    make(tmp_path / "image")
    done = command("run", bundle, "--text", "What?", "--image", tmp_path / "image")
    assert done.code == 2 and message in done.err and str(tmp_path / "image") in done.err and done.out == ""


@pytest.mark.parametrize(
    ("text", "warning"),
    [("", False), (" ", False), ("größe 大きさ \U0001f600", False), ("word " * 400, True), ("x" * 100_000, True)],
    ids=["empty", "blank", "unknown letters", "too long", "far too long"],
)
def test_any_text_is_answered_and_a_long_one_warned_about(
    text: str, warning: bool, command: Command, bundle: Path
) -> None:
    done = command("run", bundle, "--text", text, "--json")
    assert done.code == 0 and json.loads(done.out)["truncated"] == warning
    assert ("warning: the prompt was too long" in done.err) == warning


RUN_WORDS: list[tuple[list[str], int, str]] = [
    (["--max-new-tokens", "0"], 2, "max_new_tokens is 0; it must be at least 1"),
    (["--max-new-tokens", "100000"], 2, "max_new_tokens"),
    (["--temperature", "-1"], 2, "temperature is -1.0"),
    (["--temperature", "nan"], 2, "temperature is nan"),
    (["--temperature", "inf"], 2, "temperature is inf"),
    (["--top-p", "0"], 2, "top_p is 0.0"),
    (["--top-p", "1.5"], 2, "top_p is 1.5"),
    (["--seed", "-1"], 2, "seed is -1"),
    (["--precision", "fp16"], 2, "no fp16 graph"),
    (["--precision", "int8"], 2, "'int8' is not one of"),
    (["--backend", "abacus"], 2, "abacus"),
    (["--choices", "x"] * 27, 2, "27 choices"),
]


@pytest.mark.parametrize(("words", "code", "message"), RUN_WORDS, ids=[" ".join(w[:2]) for w, _, _ in RUN_WORDS])
def test_run_flags_that_are_wrong(words: list[str], code: int, message: str, command: Command, bundle: Path) -> None:
    done = command("run", bundle, "--text", "x", *words)
    assert done.code == code and message in done.err and done.out == ""


def test_a_bf16_bundle_says_that_this_machine_cannot_run_it(command: Command, bundle_of: Callable[[str], Path]) -> None:
    done = command("run", bundle_of("bf16"), "--text", "x")
    assert done.code == 3 and "no bfloat16 kernels" in done.err


GOOD_LINE = '{"id": "1", "text": "x"}'
DATA: dict[str, tuple[str | bytes, list[str], str]] = {
    "half a line": (GOOD_LINE + '\n{"id": "2", "te', [], "in.jsonl:2: the line is not whole JSON"),
    "an unknown key": ('{"id": "1", "text": "x", "picture": "a.png"}', [], "in.jsonl:1: unknown key 'picture'"),
    "no text": ('{"id": "1"}', [], "in.jsonl:1: the key 'text' is missing"),
    "one id twice": (f"{GOOD_LINE}\n{GOOD_LINE}", [], "in.jsonl:2: the id '1' was used on line 1"),
    "a missing image": ('{"id": "1", "text": "x", "image": "no.png"}', [], "no.png is not a file"),
    "a damaged image": ('{"id": "1", "text": "x", "image": "in.jsonl"}', [], "in.jsonl is not an image"),
    "a list": (f"[{GOOD_LINE}]", [], "JSONL has one object a line"),
    "bytes": (b"\xff\xfe\x00", [], "not UTF-8"),
    "a batch of none": (GOOD_LINE, ["--batch", "0"], "batch is 0"),
    "a batch that is too large": (GOOD_LINE, ["--batch", "1000"], "batch is 1000; the decoder takes at most 64"),
}


@pytest.mark.parametrize(("content", "words", "message"), DATA.values(), ids=list(DATA))
def test_data_that_is_wrong_is_named_by_file_and_line(
    content: str | bytes, words: list[str], message: str, command: Command, bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = command("run", bundle, "--data", path, "-o", tmp_path / "out.jsonl", *words)
    assert done.code == 2 and message in done.err
    assert not (tmp_path / "out.jsonl").exists()


def test_answers_do_not_replace_their_questions_or_a_folder(command: Command, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(GOOD_LINE)
    for output, message in ((path, "is an input of this run"), (tmp_path, "is a folder")):
        done = command("run", bundle, "--data", path, "-o", output)
        assert done.code == 2 and message in done.err
    assert path.read_text() == GOOD_LINE
    assert command("run", bundle, "--data", tmp_path / "no.jsonl", "-o", tmp_path / "out").code == 2


def arrays(**changes: Any) -> dict[str, Any]:
    good = {"pixel_values": np.zeros((1, 3, 224, 224), np.float32), "image_indicator": np.ones(1, np.float32)}
    return {name: array for name, array in {**good, **changes}.items() if array is not None}


TENSORS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no such component": ("visoin", arrays(), "no component 'visoin'; there is vision, decoder"),
    "an unknown name": ("vision", arrays(pixels=np.zeros(1)), "has no input 'pixels'; it takes pixel_values"),
    "a missing name": ("vision", arrays(image_indicator=None), "needs the input 'image_indicator'"),
    "another type": ("vision", arrays(pixel_values=np.zeros((1, 3, 224, 224), np.uint8)), "takes float32"),
    "another shape": ("vision", arrays(pixel_values=np.zeros((1, 3, 200, 224))), "cannot run vision on these inputs"),
    "another rank": ("vision", arrays(pixel_values=np.zeros((3, 224, 224))), "cannot run vision on these inputs"),
    "objects": ("vision", arrays(image_indicator=np.array([{}], object)), "not a whole npz file of plain arrays"),
}


@pytest.mark.parametrize(("component", "inputs", "message"), TENSORS.values(), ids=list(TENSORS))
def test_tensors_that_do_not_fit_are_named(
    component: str, inputs: dict[str, Any], message: str, command: Command, bundle: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "in.npz", **inputs)
    words = ["--component", component, "--inputs", tmp_path / "in.npz", "--save-outputs", tmp_path / "out.npz"]
    done = command("run", bundle, *words)
    assert done.code == 2 and message in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("batch", "--shape 'batch' is not NAME=LENGTH"),
        ("batch=x", "--shape 'batch=x' is not NAME=LENGTH"),
        ("batch=²", "--shape 'batch=²' is not NAME=LENGTH"),
        ("batch=-1", "--shape 'batch=-1' is not NAME=LENGTH"),
        ("=3", "--shape '=3' is not NAME=LENGTH"),
        ("bath=3", "no input has a dimension 'bath'"),
    ],
)
def test_shapes_that_are_wrong(shape: str, message: str, command: Command, bundle: Path) -> None:
    done = command("inspect", bundle, "--shape", shape)
    assert done.code == 2 and message in done.err


@pytest.mark.parametrize("damage", [_half, _garbage, _empty, _text], ids=["half", "garbage", "empty", "text"])
def test_graphs_that_are_none_are_refused_by_inspect(
    damage: Callable[[Path], object], command: Command, bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.onnx"
    shutil.copyfile(bundle / "graphs/decoder.onnx", path)
    damage(path)
    done = command("inspect", path)
    assert done.code == 2 and "x.onnx" in done.err
    assert command("inspect", tmp_path / "no.onnx").code == 2
    assert command("inspect", tmp_path).code == 2


CHECK_WORDS: list[tuple[list[str], str]] = [
    (["--precision", "fp16"], "no fp16 graph"),
    (["--precision", "bf16"], "no bf16 graph"),
    (["--source", "no-such"], "no-such does not exist"),
    (["--data", "no-such.jsonl"], "no-such.jsonl is not a file"),
    (["--backend", "abacus"], "abacus"),
]


@pytest.mark.parametrize(("words", "message"), CHECK_WORDS, ids=[" ".join(w) for w, _ in CHECK_WORDS])
def test_check_flags_that_are_wrong(words: list[str], message: str, command: Command, bundle: Path) -> None:
    done = command("check", bundle, *words)
    assert done.code == 2 and message in done.err and done.out == ""


def test_check_refuses_the_source_of_another_bundle(command: Command, bundle: Path, source: Path) -> None:
    _toml("max_new_tokens = 4", "max_sequence = 256")(source)
    done = command("check", bundle, "--source", source)
    assert done.code == 2 and "was not made from this source" in done.err
