"""A bundle is whole or refused with its own message, made at once or not at all, changed by one process at a time."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.bundle import MANIFEST, SCHEMA, Bundle, change, check_place, new_bundle
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.partial import LOCK

PORT = {"name": "x", "dtype": "int64", "dims": ["batch", 3]}
# All that schema 1 asks for.
CONTENT: dict[str, Any] = {
    "family": "toy",
    "task": "vqa",
    "precision": "fp32",
    "options": {},
    "config": {},
    "preprocessing": {},
    "tokenizer": {"type": "sentencepiece", "file": "a.txt"},
    "generation": {"max_new_tokens": 1, "max_sequence": 8},
    "labels": None,
    "memory": {},
    "components": {
        "model": {
            "inputs": [PORT],
            "outputs": [PORT],
            "ranges": {"batch": [1, 4]},
            "cache": {"kind": "concat", "axis": 2, "layers": 1},
            "graphs": {"fp32": {"file": "a.txt", "opset": 20}},
        }
    },
    "engines": [],
    "samples": None,
    "sources": [{"key": "base", "file": "a.pth", "size": 1, "sha256": "0"}],
}


def make(output: Path, text: str = "a whole file", overwrite: bool = False) -> Bundle:
    """A bundle of two files, `a.txt` and `deep/b.txt`."""
    with new_bundle(output, overwrite) as writer:
        for name in ("a.txt", "deep/b.txt"):
            writer.path(name).write_text(text)
            writer.record(name)
        writer.write_manifest(CONTENT)
    return Bundle.open(output)


def sign(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit a manifest as an attacker would: its own digest is made to fit."""
    manifest = json.loads((root / MANIFEST).read_bytes())
    edit(manifest)
    manifest.pop("digest")
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    (root / MANIFEST).write_text(json.dumps({**manifest, "digest": hashlib.sha256(text.encode()).hexdigest()}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_bundle_appears_whole_and_under_its_name_only(tmp_path: Path) -> None:
    output = tmp_path / "new" / "b"
    with new_bundle(output) as writer:
        writer.path("x").write_bytes(b"x")
        writer.record("x")
        assert not output.exists() and writer.root.name.startswith(".b.partial-")
        writer.write_manifest(CONTENT)
    assert names(output.parent) == ["b"] and names(output) == [MANIFEST, "x"]
    assert Bundle.open(output, verify=True).manifest["files"] == {
        "x": {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    }
    assert Bundle.open(output).size == 1
    umask = os.umask(0)
    os.umask(umask)
    assert output.stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_bundle(tmp_path / "b") as writer:
        writer.path("graphs/x").write_text("x")
        raise error
    assert names(tmp_path) == []


def test_a_failed_replacement_keeps_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "b", "old")
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if target == tmp_path / "b" and not path.name.endswith("-old"):
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "b", "new", overwrite=True)
    assert names(tmp_path) == ["b"] and (tmp_path / "b" / "a.txt").read_text() == "old"


def test_a_replacement_killed_between_its_renames_is_undone_by_the_next_run(tmp_path: Path) -> None:
    make(tmp_path / "b", "old")
    (tmp_path / "b").rename(tmp_path / ".b.partial-1234-old")
    make(tmp_path / ".b.partial-1234", "new")
    (tmp_path / ".b.partial-1234" / LOCK).touch()
    with pytest.raises(InputError, match="exists"):
        make(tmp_path / "b", "third")
    assert names(tmp_path) == ["b"] and (tmp_path / "b" / "a.txt").read_text() == "old"


def test_what_a_killed_process_left_is_removed_but_not_what_a_living_one_is_making(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom memvp_export.exporter.bundle import new_bundle\n"
        "with new_bundle(Path(sys.argv[1])) as writer:\n"
        "    writer.path('x').write_text('x')\n    print('writing', flush=True)\n    sys.stdin.read()\n"
    )
    other = tmp_path / ".c.partial-1234"
    other.mkdir()
    (other / "x").touch()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "b[1]")], **pipes) as child:
        assert child.stdout is not None and child.stdout.readline() == "writing\n"
        making = names(tmp_path)
        for begin in (check_place, make):
            with pytest.raises(InputError, match="is being made by another process"):
                begin(tmp_path / "b[1]")
        make(tmp_path / "b[1]2")
        assert sorted([*making, "b[1]2"]) == names(tmp_path)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert sorted([*making, "b[1]2"]) == names(tmp_path)
    check_place(tmp_path / "b[1]")
    make(tmp_path / "b[1]")
    assert names(tmp_path) == [other.name, "b[1]", "b[1]2"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "disk of .*/b is full"),
        (errno.EDQUOT, "disk of .*/b is full"),
        (errno.EFBIG, "/b cannot be written: a file of it is larger than the limit"),
        (errno.EIO, None),
    ],
    ids=["disk full", "quota", "limit on sizes", "other"],
)
def test_a_full_disk_in_the_middle(tmp_path: Path, number: int, message: str | None) -> None:
    kind: type[Exception] = EnvironmentLack if message else OSError
    with pytest.raises(kind, match=message), new_bundle(tmp_path / "b"):
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


@pytest.mark.parametrize("parent", ["/proc/no-such", "file"])
def test_a_place_that_cannot_be_written(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentLack, match="cannot be written"):
        make(tmp_path / parent / "b")
    assert names(tmp_path) == ["file"]


def test_a_place_is_judged_without_writing_anything(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    make(tmp_path / "taken")
    check_place(tmp_path / "new" / "b")
    check_place(tmp_path / "taken", overwrite=True)
    with pytest.raises(InputError, match="--overwrite"):
        check_place(tmp_path / "taken")
    with pytest.raises(EnvironmentLack, match=r"cannot be written: .*/file is a file"):
        check_place(tmp_path / "file" / "new" / "b")
    assert names(tmp_path) == ["file", "taken"]


def _foreign_manifest(path: Path) -> None:
    path.mkdir()
    (path / MANIFEST).write_text('{"manifest_version": 3, "name": "a browser extension"}')
    (path / "work.js").touch()


def _full_folder(path: Path) -> None:
    path.mkdir()
    (path / "work.txt").touch()


TAKEN: dict[str, tuple[Callable[[Path], object], bool]] = {
    "file": (Path.touch, False),
    "folder with files": (_full_folder, False),
    "folder with another tool's manifest.json": (_foreign_manifest, False),
    "broken link": (lambda path: path.symlink_to(path.parent / "nowhere"), False),
    "empty folder": (Path.mkdir, True),
    "bundle": (make, True),
    "damaged bundle": (lambda path: (make(path), (path / "a.txt").unlink()), True),
    "newer bundle": (lambda path: (make(path), sign(path, lambda m: m.update(schema=99))), True),
    "link to a bundle": (lambda path: (make(path.parent / "real"), path.symlink_to(path.parent / "real")), True),
}


@pytest.mark.parametrize(("prepare", "replaceable"), TAKEN.values(), ids=list(TAKEN))
def test_only_a_bundle_is_replaced_and_only_when_asked(
    tmp_path: Path, prepare: Callable[[Path], object], replaceable: bool
) -> None:
    prepare(tmp_path / "b")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match="--overwrite"):
        make(tmp_path / "b", "new")
    if not replaceable:
        with pytest.raises(InputError, match="not a bundle: it will not be replaced"):
            make(tmp_path / "b", "new", overwrite=True)
        assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return
    make(tmp_path / "b", "new", overwrite=True)
    assert Bundle.open(tmp_path / "b", verify=True).path("a.txt").read_text() == "new"
    assert not [name for name in names(tmp_path) if "partial" in name]


MEANWHILE: dict[str, tuple[Callable[[Path], object], bool]] = {
    **{name: TAKEN[name] for name in ("file", "folder with files", "broken link", "empty folder")},
    # Made elsewhere and moved: who makes one at this name is refused at once.
    "bundle": (lambda path: make(path.with_name("other")).root.rename(path), True),
}


@pytest.mark.parametrize(("prepare", "replaceable"), MEANWHILE.values(), ids=list(MEANWHILE))
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_was_put_at_the_name_meanwhile_is_kept(
    tmp_path: Path, prepare: Callable[[Path], object], replaceable: bool, overwrite: bool
) -> None:
    def state() -> dict[Path, int]:
        found = [path for path in tmp_path.rglob("*") if ".partial-" not in str(path)]
        return {path: path.lstat().st_ino for path in found}

    output = tmp_path / "b"
    if replaceable and overwrite:
        with new_bundle(output, overwrite) as writer:
            prepare(output)
            writer.write_manifest(CONTENT)
        assert Bundle.open(output).manifest["files"] == {} and names(tmp_path) == ["b"]
        return
    with (
        pytest.raises(InputError, match=r"put at .*/b: that is kept, this bundle is dropped") as caught,
        new_bundle(output, overwrite) as writer,
    ):
        prepare(output)
        before = state()
        writer.write_manifest(CONTENT)
    assert "\n" not in str(caught.value)
    assert state() == before and not [name for name in names(tmp_path) if "partial" in name]


def test_what_appears_in_the_very_last_moment_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        _full_folder(target)
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(InputError, match="something else was put at"):
        make(tmp_path / "b")
    assert names(tmp_path) == ["b"] and names(tmp_path / "b") == ["work.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_exports_to_one_name_the_second_is_refused_at_once(tmp_path: Path, overwrite: bool) -> None:
    with new_bundle(tmp_path / "b", overwrite) as writer:
        with pytest.raises(InputError, match="is being made by another process"):
            make(tmp_path / "b", "second", overwrite)
        writer.write_manifest(CONTENT)
    assert Bundle.open(tmp_path / "b").manifest["files"] == {} and names(tmp_path) == ["b"]


def _file(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(edit((root / name).read_bytes()))


def _signed(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda root: sign(root, edit)


def _renamed(name: str) -> Callable[[Path], object]:
    return _signed(lambda m: m["files"].update({name: m["files"].pop("a.txt")}))


def _link_out(root: Path) -> None:
    (root.parent / "outside").write_text("a whole file")
    (root / "a.txt").unlink()
    (root / "a.txt").symlink_to(root.parent / "outside")


def _folder_out(root: Path) -> None:
    (root / "deep").rename(root.parent / "outside")
    (root / "deep").symlink_to(root.parent / "outside")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such folder": (shutil.rmtree, "does not exist"),
    "a file": (lambda root: (shutil.rmtree(root), root.touch()), "is not a bundle: it has no manifest"),
    "no manifest": (lambda root: (root / MANIFEST).unlink(), "is not a bundle: it has no manifest"),
    "another tool's manifest": (_file(MANIFEST, lambda b: b'{"name": "x"}'), "is not a bundle: .* not of the format"),
    "manifest a list": (_file(MANIFEST, lambda b: b"[]"), "is not a bundle: .* not of the format"),
    "file missing": (lambda root: (root / "deep/b.txt").unlink(), "is cut short: deep/b.txt is missing"),
    "file shorter": (_file("a.txt", lambda b: b[:-1]), "is cut short: a.txt has 11 bytes, its manifest says 12"),
    "file emptied": (_file("a.txt", lambda b: b""), "is cut short: a.txt has 0 bytes"),
    "manifest truncated": (_file(MANIFEST, lambda b: b[: len(b) // 2]), f"is cut short: {MANIFEST}"),
    "manifest without its last brace": (_file(MANIFEST, lambda b: b[:-2]), f"is cut short: {MANIFEST}"),
    "manifest emptied": (_file(MANIFEST, lambda b: b""), f"is cut short: {MANIFEST}"),
    "file longer": (_file("a.txt", lambda b: b + b"!"), "is edited: a.txt has 13 bytes"),
    "manifest edited": (_file(MANIFEST, lambda b: b.replace(b'"toy"', b'"joy"')), "is edited: .* own digest"),
    "manifest edited into no JSON": (_file(MANIFEST, lambda b: b.replace(b":", b";")), "is edited: .* not whole JSON"),
    "manifest too deep": (_file(MANIFEST, lambda b: b"[" * 100_000 + b"\n}"), "is edited: .* not whole JSON"),
    "no schema": (_signed(lambda m: m.pop("schema")), "is edited"),
    "no list of files": (_signed(lambda m: m.pop("files")), "is edited"),
    "a file without a size": (_signed(lambda m: m["files"]["a.txt"].pop("size")), "is edited"),
    "newer schema": (_signed(lambda m: m.update(schema=SCHEMA + 1)), rf"newer .*schema {SCHEMA + 1}.* up to {SCHEMA}"),
    "path above": (_renamed("../a.txt"), "'../a.txt', a path outside the bundle"),
    "path above, hidden": (_renamed("deep/../../a.txt"), "a path outside the bundle"),
    "absolute path": (_renamed("/etc/passwd"), "'/etc/passwd', a path outside the bundle"),
    "zero byte in a path": (_renamed("a\0.txt"), "a path outside the bundle"),
    "link out of the folder": (_link_out, r"a\.txt is, or lies behind, a link that leaves the bundle, to .*/outside\."),
    "a folder that is a link": (_folder_out, r"deep/b\.txt .* a link that leaves the bundle, to .*/outside/b\.txt"),
}


@pytest.mark.parametrize(("damage", "message"), REFUSED.values(), ids=list(REFUSED))
def test_a_damaged_bundle_is_refused_and_the_message_says_how(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    root = make(tmp_path / "b").root
    damage(root)
    with pytest.raises(InputError, match=message) as caught:
        Bundle.open(root)
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)


def _without(*path: Any) -> Callable[[dict[str, Any]], object]:
    def edit(manifest: dict[str, Any]) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest.pop(path[-1])

    return edit


def _with(value: Any, *path: Any) -> Callable[[dict[str, Any]], object]:
    def edit(manifest: dict[str, Any]) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return edit


MODEL = ("components", "model")
INCOMPLETE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    **{f"no {key}": (_without(key), f"{key} is missing") for key in (*CONTENT, "files")},
    **{f"a text for {key}": (_with("x", key), f"{key} is") for key in CONTENT if not isinstance(CONTENT[key], str)},
    "no length": (_without("generation", "max_new_tokens"), "generation.max_new_tokens is missing"),
    "a length as text": (_with("4", "generation", "max_new_tokens"), "generation.max_new_tokens is not what"),
    "a length as truth": (_with(True, "generation", "max_new_tokens"), "generation.max_new_tokens is not what"),
    "no family": (_with(None, "family"), "family is not what it should be"),
    "a component without graphs": (_without(*MODEL, "graphs"), "components.model.graphs is missing"),
    "a graph without a file": (_without(*MODEL, "graphs", "fp32", "file"), "components.model.graphs.fp32.file is miss"),
    "half a range": (_with([1], *MODEL, "ranges", "batch"), "components.model.ranges.batch is not what"),
    "a port without dims": (
        _with([{**PORT, "dims": None}], *MODEL, "inputs"),
        r"components.model.inputs\[0\].dims is not what",
    ),
    "a dim that is none": (
        _with([1.5], *MODEL, "outputs", 0, "dims"),
        r"components.model.outputs\[0\].dims\[0\] is not what",
    ),
    "half a cache": (_without(*MODEL, "cache", "axis"), "components.model.cache.axis is missing"),
    "half the samples": (_with({"tensors": "a.txt"}, "samples"), "samples.requests is missing"),
    "a source without a name": (_without("sources", 0, "file"), r"sources\[0\].file is missing"),
}


@pytest.mark.parametrize(("edit", "message"), INCOMPLETE.values(), ids=list(INCOMPLETE))
def test_a_manifest_with_a_good_digest_that_lacks_something_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    root = make(tmp_path / "b").root
    sign(root, edit)
    with pytest.raises(InputError, match=f"is edited: {message}") as caught:
        Bundle.open(root)
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)


def test_a_flipped_byte_of_the_same_size_is_found_by_verify(tmp_path: Path) -> None:
    root = make(tmp_path / "b").root
    (root / "deep/b.txt").write_text("a whole pile")
    Bundle.open(root)
    with pytest.raises(InputError, match=r"is edited: the bytes of deep/b\.txt"):
        Bundle.open(root, verify=True)


def test_a_file_that_the_manifest_does_not_list_is_no_part_of_the_bundle(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b")
    (bundle.root / "graph.onnx").touch()
    with pytest.raises(InputError, match=r"'graph.onnx', which is not in its list"):
        bundle.path("graph.onnx")


MADE = {"engines/tensorrt-11-any/m.engine": "trt", "calibration/int8.json": "calibrate"}


def test_files_that_can_be_made_again_may_be_missing_until_they_are_needed(tmp_path: Path) -> None:
    root = make(tmp_path / "b").root
    with change(root) as (writer, manifest):
        for name in MADE:
            writer.path(name).write_text("made")
            writer.record(name)
        writer.write_manifest(manifest)
    assert Bundle.open(root).missing == []
    for number, (name, command) in enumerate(MADE.items(), 1):
        (root / name).write_text("mad")
        with pytest.raises(InputError, match=f"is cut short: {name} .* Delete that file, .*memvp-export {command}"):
            Bundle.open(root)
        (root / name).unlink()
        bundle = Bundle.open(root, verify=True)
        assert set(bundle.missing) == set(list(MADE)[:number])
        with pytest.raises(InputError, match=f"is cut short: {name} is missing. Make it again with .*{command}"):
            bundle.path(name)
    (root / "a.txt").write_text("another file")
    with pytest.raises(InputError, match=r"is edited: the bytes of a\.txt"):
        bundle.verify()


def test_a_bundle_can_be_moved_and_opened_through_a_link(tmp_path: Path) -> None:
    make(tmp_path / "b").root.rename(tmp_path / "c")
    (tmp_path / "link").symlink_to(tmp_path / "c")
    assert Bundle.open(str(tmp_path / "link"), verify=True).path("a.txt").read_text() == "a whole file"


def test_a_change_is_seen_only_when_its_manifest_is_written(tmp_path: Path) -> None:
    root = make(tmp_path / "b").root
    with change(root) as (writer, manifest):
        writer.path("c.txt").write_text("new")
        writer.record("c.txt")
        assert "c.txt" not in Bundle.open(root).manifest["files"]
        writer.write_manifest({**manifest, "family": "changed"})
    changed = Bundle.open(root, verify=True)
    assert sorted(changed.manifest["files"]) == ["a.txt", "c.txt", "deep/b.txt"]
    assert changed.manifest["family"] == "changed" and changed.manifest["precision"] == "fp32"


def test_files_that_get_other_bytes_are_forgotten_first(tmp_path: Path) -> None:
    root = make(tmp_path / "b").root
    with change(root) as (writer, manifest):
        before = (root / MANIFEST).read_bytes()
        writer.forget(["not/listed.txt"], manifest)
        assert (root / MANIFEST).read_bytes() == before
        writer.forget(["deep/b.txt", "not/listed.txt"], manifest)
        assert {*Bundle.open(root).manifest["files"]} == {"a.txt"} == {*writer.files}


def test_a_manifest_that_cannot_be_written_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "b").root
    before = (root / MANIFEST).read_bytes()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), change(root) as (writer, manifest):
        writer.write_manifest({**manifest, "task": "other"})
    assert names(root) == [LOCK, "a.txt", "deep", MANIFEST] and (root / MANIFEST).read_bytes() == before


def test_a_change_that_fails_loses_nothing(tmp_path: Path) -> None:
    root = make(tmp_path / "b").root
    with pytest.raises(RuntimeError), change(root) as (writer, _):
        writer.path("c.txt").write_text("new")
        raise RuntimeError
    assert sorted(Bundle.open(root, verify=True).manifest["files"]) == ["a.txt", "deep/b.txt"]
    with change(root) as (writer, manifest):
        writer.write_manifest(manifest)


def test_two_processes_do_not_change_one_bundle(tmp_path: Path) -> None:
    root = make(tmp_path / "b").root
    with (root / LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="being changed by another process"), change(root):
            pass
    with change(root), pytest.raises(InputError, match="another process"), change(root):
        pass
