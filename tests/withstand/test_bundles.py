"""Damaged bundles and graphs, and what cannot be asked of them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Command = Callable[..., Any]


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


GRAPHS: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda graph: graph[: len(graph) // 2],
    "garbage": lambda graph: np.random.default_rng(0).bytes(5000),
    "empty": lambda graph: b"",
    "text": lambda graph: b"not a graph",
}


@pytest.mark.parametrize("damage", GRAPHS.values(), ids=list(GRAPHS))
def test_graphs_that_are_none_are_refused_by_inspect(
    damage: Callable[[bytes], bytes], command: Command, bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(damage((bundle / "graphs/decoder.onnx").read_bytes()))
    done = command("inspect", path)
    assert done.code == 2 and "x.onnx" in done.err
    assert command("inspect", tmp_path / "no.onnx").code == 2
    assert command("inspect", tmp_path).code == 2


def test_a_graph_whose_weights_are_missing_or_cut_short_is_not_whole(
    command: Command, bundle: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(bundle / "graphs/vision.onnx", tmp_path))
    done = command("inspect", path)
    assert (
        done.code == 1 and f"{path} is no whole graph: its weights vision.onnx.data are not beside it" in done.verdict
    )
    data = (bundle / "graphs/vision.onnx.data").read_bytes()
    (tmp_path / "vision.onnx.data").write_bytes(data[: len(data) // 2])
    done = command("inspect", path, "--json")
    assert done.code == 1 and f"cut short: {len(data) // 2:,} bytes of" in done.verdict
    (tmp_path / "vision.onnx.data").write_bytes(data)
    assert command("inspect", path).verdict == f"done: {path} is a whole graph"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("batch", "--shape 'batch' is not NAME=LENGTH"),
        ("batch=x", "--shape 'batch=x' is not NAME=LENGTH"),
        ("batch=²", "--shape 'batch=²' is not NAME=LENGTH"),
        ("batch=-1", "--shape 'batch=-1' is not NAME=LENGTH"),
        ("=3", "--shape '=3' is not NAME=LENGTH"),
        ("bath=3", "no input has a dimension 'bath'"),
        ("batch=0", "batch is 0; vision takes whole numbers from 1 to 64"),
        ("batch=100000", "batch is 100000; vision takes whole numbers from 1 to 64"),
    ],
)
def test_shapes_that_are_wrong(shape: str, message: str, command: Command, bundle: Path) -> None:
    done = command("inspect", bundle, "--shape", shape)
    assert done.code == 2 and message in done.err


def test_a_shape_that_is_there_twice(command: Command, bundle: Path) -> None:
    done = command("inspect", bundle, "--shape", "batch=1", "--shape", "sequence=3", "--shape", "batch=2")
    assert done.code == 2 and "--shape batch is there twice" in done.err


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
