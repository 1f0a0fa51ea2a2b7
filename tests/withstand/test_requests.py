"""Odd images, texts, data files and tensors: answered, or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]


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
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a text": (lambda path: path.write_text("not an image"), "is not an image"),
    "garbage": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "is not an image"),
    "truncated": (_cut_image, "cut short or damaged"),
    "empty": (Path.touch, "it is empty"),
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
    (["--top-p", "0", "--temperature", "1"], 2, "top_p is 0.0"),
    (["--top-p", "1.5", "--temperature", "1"], 2, "top_p is 1.5"),
    (["--seed", "-1", "--temperature", "1"], 2, "seed is -1"),
    (["--beams", "0"], 2, "beams is 0"),
    (["--beams", "2"], 2, "leave them out"),
    (["--beams", "2", "--temperature", "1"], 2, "temperature is 1.0; it must be 0 with beams"),
    (["--precision", "fp16"], 2, "no fp16 graph"),
    (["--precision", "int8"], 2, "no int8 graph"),
    (["--precision", "int3"], 2, "'int3' is not one of"),
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
    "a damaged image's request": ('{"id": "1", "text": "x", "image": "in.jsonl"}', [], "the request '1': "),
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
    "another shape": ("vision", arrays(pixel_values=np.zeros((1, 3, 200, 224))), "takes [1, 3, 224, 224]"),
    "another rank": ("vision", arrays(pixel_values=np.zeros((3, 224, 224))), "takes [batch, 3, 224, 224]"),
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
