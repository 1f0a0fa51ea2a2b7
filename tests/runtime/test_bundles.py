"""The C++ runtime opens what Python opens, and refuses what Python refuses, in the same words."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.bundle import MANIFEST, Bundle, new_bundle
from memvp_export.exporter.errors import ToolError

from ..exporter.test_bundle import CONTENT as PLAIN_CONTENT
from . import closed_form, engine_bundle
from .conftest import Refused

Host = Callable[..., Any]
# Texts and numbers that a reader of JSON of one's own may get wrong.
CONTENT: dict[str, Any] = {
    **PLAIN_CONTENT,
    "family": "töy",
    "options": {"adapter_scale": 0.1, "eps": 1e-05, "image_size": [384, 512]},
    "config": {"norm_eps": 1e-06, "big": 10**25, "deep": {"none": None, "yes": True}},
    "preprocessing": {"scale": 1 / 255},
    "tokenizer": {"type": "sentencepiece", "file": "a.txt", "prefix": "\n😀"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "a bundle"
    with new_bundle(root) as writer:
        for name in ("a.txt", "deep/b.txt", "engines/e/x.engine"):
            writer.path(name).write_text("a whole file" * 100)
            writer.record(name)
        writer.write_manifest(CONTENT)
    return root


def signed(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """A manifest edited as an attacker would: its own digest is made to fit."""

    def damage(root: Path) -> None:
        manifest = json.loads((root / MANIFEST).read_bytes())
        edit(manifest)
        manifest.pop("digest")
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        (root / MANIFEST).write_text(json.dumps({**manifest, "digest": digest}, indent=1))

    return damage


def edited(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(edit((root / name).read_bytes()))


def linked(root: Path) -> None:
    (root / "deep/b.txt").rename(root.parent / "outside.txt")
    (root / "deep/b.txt").symlink_to(root.parent / "outside.txt")


def listed(name: str) -> Callable[[Path], object]:
    return signed(lambda m: m["files"].update({name: {"size": 1, "sha256": ""}}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "whole": lambda root: None,
    "gone": shutil.rmtree,
    "no manifest": lambda root: (root / MANIFEST).unlink(),
    "a file missing": lambda root: (root / "a.txt").unlink(),
    "an engine missing": lambda root: (root / "engines/e/x.engine").unlink(),
    "a file shorter": edited("a.txt", lambda b: b[:-1]),
    "a file longer": edited("deep/b.txt", lambda b: b + b"!" * 10_000),
    "an engine shorter": edited("engines/e/x.engine", lambda b: b[:-1]),
    "other bytes": edited("deep/b.txt", lambda b: b"A" + b[1:]),
    "manifest cut": edited(MANIFEST, lambda b: b[:-20]),
    "manifest cut in a string": edited(MANIFEST, lambda b: b[:30]),
    "manifest empty": edited(MANIFEST, lambda b: b""),
    "manifest of other JSON": edited(MANIFEST, lambda b: b"[1]"),
    "manifest with a wrong comma": edited(MANIFEST, lambda b: b.replace(b'"task"', b',"task"')),
    "manifest of no UTF-8": edited(MANIFEST, lambda b: b.replace(b'"vqa"', b'"v\xe9a"')),
    "manifest edited": edited(MANIFEST, lambda b: b.replace(b'"vqa"', b'"vqb"')),
    "manifest with a rounded number": edited(MANIFEST, lambda b: b.replace(b"0.00392156862745098", b"0.0039215686274")),
    "manifest spaced otherwise": edited(MANIFEST, lambda b: json.dumps(json.loads(b)).encode()),
    "newer": edited(MANIFEST, lambda b: b.replace(b'"schema": 1', b'"schema": 12')),
    "schema of no number": signed(lambda m: m.update(schema="1")),
    "schema 0": signed(lambda m: m.update(schema=0)),
    "schema 1.0": signed(lambda m: m.update(schema=1.0)),
    "other format": signed(lambda m: m.update(format="x")),
    "a key missing": signed(lambda m: m.pop("labels")),
    "a size of text": signed(lambda m: m["files"]["a.txt"].update(size="12")),
    "a size of a truth value": signed(lambda m: m["files"]["a.txt"].update(size=True)),
    "a huge size": signed(lambda m: m["files"]["a.txt"].update(size=10**30)),
    "a negative size": signed(lambda m: m["files"]["a.txt"].update(size=-1200)),
    "a range of three": signed(lambda m: m["components"]["model"]["ranges"].update(batch=[1, 2, 3])),
    "dims of lists": signed(lambda m: m["components"]["model"]["inputs"][0].update(dims=["batch", []])),
    "half an engine": signed(lambda m: m.update(engines=[{"component": "model"}])),
    "no generation": signed(lambda m: m.update(generation={})),
    "an absolute path": listed("/etc/passwd"),
    "a path upwards": listed("deep/../../x"),
    "a path with a NUL": listed("a\0b'"),
    "a link that leaves": linked,
    "a file that is a folder": listed("deep"),
}


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_bundles_open_or_are_refused_as_in_python(
    host: Host, made: Path, tmp_path: Path, damage: Callable[[Path], object], verify: bool
) -> None:
    root = Path(shutil.copytree(made, tmp_path / "it's a bundle"))
    damage(root)
    try:
        expected: Any = Bundle.open(root, verify=verify).missing
    except ToolError as error:
        expected = (type(error).__name__, str(error))
    try:
        found: Any = host("open", root=f"{tmp_path}/./it's a bundle//", verify=verify)
    except Refused as refused:
        found = (refused.kind, str(refused))
    assert found == expected


@pytest.mark.parametrize("length", [-1, 1 << 31, 10**30])
def test_lengths_that_no_tensor_has(host: Host, tmp_path: Path, length: int) -> None:
    """Python counts as far as it likes; here what is allocated and looked up is computed from them."""
    made = engine_bundle.make(tmp_path / "made", closed_form.entry("delta"))

    def edits() -> Iterator[tuple[str, Callable[[dict[str, Any]], object]]]:
        yield "components.vision.inputs[0].dims[1]", lambda m: m["components"]["vision"]["inputs"][0]["dims"]
        yield "engines[1].outputs[0].dims[1]", lambda m: m["engines"][1]["outputs"][0]["dims"]
        shapes = "engines[1].profiles[0].shapes.input_ids"
        yield f"{shapes}.max[1]", lambda m: m["engines"][1]["profiles"][0]["shapes"]["input_ids"]["max"]

    for number, (where, numbers) in enumerate(edits()):
        root = Path(shutil.copytree(made, tmp_path / str(number)))
        signed(lambda m, numbers=numbers: numbers(m).__setitem__(1, length))(root)  # type: ignore[misc]
        with pytest.raises(Refused) as refused:
            host("open", root=root, verify=False)
        wrong = f"{where} is not what it should be in its manifest.json. Export the bundle again."
        assert str(refused.value) == f"{root} is edited: {wrong}"


def test_a_name_that_no_system_takes(host: Host) -> None:
    with pytest.raises(Refused, match="cannot be looked at: File name too long") as refused:
        host("open", root="/long" * 1000, verify=False)
    assert refused.value.kind == "EnvironmentLack"


def test_the_cases_end_in_many_ways(made: Path, tmp_path: Path) -> None:
    """A table of messages that are all alike would show nothing."""
    said = set()
    for number, damage in enumerate(DAMAGE.values()):
        root = Path(shutil.copytree(made, tmp_path / str(number)))
        damage(root)
        try:
            Bundle.open(root)
        except ToolError as error:
            said.add(str(error).replace(str(root), ""))
    assert len(said) >= 22


@pytest.mark.parametrize("name", ["a.txt", "none.txt", "it's none", "engines/e/x.engine"])
def test_paths_are_those_of_listed_files(host: Host, made: Path, tmp_path: Path, name: str) -> None:
    root = Path(shutil.copytree(made, tmp_path / "b"))
    shutil.rmtree(root / "engines")
    try:
        expected = str(Bundle.open(root).path(name))
    except ToolError as error:
        expected = str(error)
    try:
        found = host("path", root=root, name=name)
    except Refused as refused:
        found = str(refused)
    assert found == expected
