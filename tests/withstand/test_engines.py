"""Engines, records, recipes and folders that were damaged or swapped, and builds that are cut off."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from memvp_export.exporter.bundle import Bundle, change
from memvp_export.exporter.engines import build as building
from memvp_export.exporter.engines.build import lower_engines
from memvp_export.exporter.engines.child import build_in_child
from memvp_export.exporter.engines.request import Request

# Engines of the odd model, and the TensorRT that built them.
from ..exporter.engines.conftest import engines_of, tensorrt_here  # noqa: F401

Command = Callable[..., Any]
EngineOf = Callable[[str], Bundle]
MAIN = "from memvp_export.cli import main; main()"
LOADS = [["check", "--backend", "tensorrt"], ["run", "--backend", "tensorrt", "--text", "x"], ["bench"]]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock, which is empty and stays."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def built(engines_of: EngineOf, tmp_path: Path) -> Path:  # noqa: F811
    """A bundle with an engine of each component, to damage."""
    return Path(shutil.copytree(engines_of("fp16").root, tmp_path / "built"))


@pytest.fixture
def plain(bundle_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A bundle without engines."""
    return Path(shutil.copytree(bundle_of("fp16"), tmp_path / "plain"))


def _file(kind: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Change the file that the manifest's first entry names as `kind`."""

    def damage(root: Path) -> None:
        path = root / json.loads((root / "manifest.json").read_text())["engines"][0][kind]
        path.write_bytes(edit(path.read_bytes()))

    return damage


def _missing(kind: str) -> Callable[[Path], object]:
    return lambda root: (root / json.loads((root / "manifest.json").read_text())["engines"][0][kind]).unlink()


def _entry(key: str, *value: object) -> Callable[[Path], object]:
    """Take a key out of the first engine's entry, or give it a value, in a manifest whose digest is right."""

    def damage(root: Path) -> None:
        with change(root) as (writer, manifest):
            if value:
                manifest["engines"][0][key] = value[0]
            else:
                del manifest["engines"][0][key]
            writer.write_manifest(manifest)

    return damage


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an engine cut short": (_file("file", lambda b: b[:-1]), "is cut short"),
    "an empty engine": (_file("file", lambda b: b""), "is cut short"),
    "an engine longer": (_file("file", lambda b: b + b"!"), "is edited"),
    "a record cut short": (_file("layers", lambda b: b[:-9]), "is cut short"),
    **{
        f"an entry without {key}": (_entry(key), f"engines[0].{key} is missing")
        for key in ("component", "file", "layers", "precision", "target", "tensorrt", "gpu", "plugin", "profiles")
    },
    "an entry with half a plugin": (_entry("plugin", {"operators": []}), "engines[0].plugin.build_id is missing"),
    "an entry with a cache of no kind": (_entry("cache", {"axis": 2, "layers": 3}), "engines[0].cache.kind is missing"),
    "an entry with a word for shapes": (
        _entry("profiles", [{"name": "p", "shapes": "large"}]),
        "profiles[0].shapes is not what",
    ),
    "an entry of none": (_entry("inputs", None), "engines[0].inputs is not what it should be"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=list(DAMAGED))
def test_a_bundle_with_damaged_engines_is_refused_by_every_command(
    damage: Callable[[Path], object], message: str, command: Command, built: Path
) -> None:
    damage(built)
    before = contents(built)
    for words in [["inspect"], ["trt", "--target", "tensorrt"], *LOADS]:
        done = command(words[0], built, *words[1:])
        assert done.code == 2 and message in done.err and str(built) in done.err and done.out == "", words
    assert contents(built) == before


def test_a_lost_engine_is_named_and_missed_only_where_it_is_needed(command: Command, built: Path) -> None:
    entries = json.loads((built / "manifest.json").read_text())["engines"]
    lost = entries[0]["file"]
    _missing("file")(built)
    shown = command("inspect", built, "--verify")
    assert shown.code == 0 and shown.verdict.startswith(f"done: {built} lacks 1 file that can be made again")
    assert lost in shown.out and "memvp-export trt" in shown.out
    report = json.loads(command("inspect", built, "--json").out)
    assert report["missing"] == [lost]
    assert [engine["component"] for engine in report["engines"]] == [entry["component"] for entry in entries[1:]]
    for words in (["check"], ["run", "--text", "x"]):
        assert command(words[0], built, *words[1:]).code == 0, words
        done = command(words[0], built, *words[1:], "--backend", "tensorrt")
        assert done.code == 2 and f"{lost} is missing. Make it again with `memvp-export trt`" in done.err


def test_a_lost_record_is_named(command: Command, built: Path) -> None:
    _missing("layers")(built)
    report = json.loads(command("inspect", built, "--json").out)
    assert [Path(name).suffix for name in report["missing"]] == [".json"] and len(report["engines"]) == 1


def test_lost_engines_are_built_again_or_forgotten(command: Command, built: Path, finished: Path) -> None:
    for engine in built.glob("engines/*/*.engine"):
        engine.unlink()
    assert command("trt", built, "--adopt", finished).code == 0
    bundle = Bundle.open(built, verify=True)
    assert bundle.missing == [] and [entry["component"] for entry in bundle.manifest["engines"]] == ["vision"]


def test_a_changed_byte_of_an_engine_is_found(command: Command, built: Path) -> None:
    _file("file", lambda b: b[:5000] + bytes([b[5000] ^ 1]) + b[5001:])(built)
    for words in (["inspect", built, "--verify"], ["check", built]):
        done = command(*words)
        assert done.code == 2 and "is edited: the bytes of engines/" in done.err, words


RECORDS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no record": (dict.clear, "is not the record of an engine"),
    "a newer one": (lambda record: record.update(schema=2), "has schema 2"),
    "layers that are words": (lambda record: record.update(layers=["one", "two"]), "is damaged"),
    "no profiles": (lambda record: record.pop("profiles"), "is damaged"),
    "another engine's": (lambda record: record["engine"].update(size=1), "is not the engine that"),
    "a file elsewhere": (lambda record: record["engine"].update(file="../x"), "is not the record of an engine"),
}


@pytest.mark.parametrize(("edit", "message"), RECORDS.values(), ids=list(RECORDS))
def test_a_record_that_was_edited_is_refused_by_inspect(
    edit: Callable[[dict[str, Any]], object], message: str, command: Command, built: Path, tmp_path: Path
) -> None:
    entry = json.loads((built / "manifest.json").read_text())["engines"][0]
    for name in (entry["file"], entry["layers"]):
        shutil.copy(built / name, tmp_path)
    engine, path = tmp_path / Path(entry["file"]).name, tmp_path / Path(entry["layers"]).name
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))
    done = command("inspect", engine)
    assert done.code == 2 and message in done.err and done.out == ""


@pytest.fixture(scope="module")
def finished(
    tensorrt_here: None,  # noqa: F811
    bundle_of: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A carried folder whose engine of the vision component is built; tests copy it."""
    folder = tmp_path_factory.mktemp("carried") / "folder"
    (recipe,) = lower_engines(bundle_of("fp16"), folder, Request(target="tensorrt", components=["vision"]))
    build_in_child(recipe, 1, lambda done: None)
    return folder


def _json(name: str, edit: Callable[[dict[str, Any]], object], sealed: bool = False) -> Callable[[Path], object]:
    """Edit a file of the folder; sealed: as somebody would who makes recipe and record agree again."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        edit(content)
        (folder / name).write_text(json.dumps(content))
        if sealed and name == RECIPE:
            digest = hashlib.sha256((folder / RECIPE).read_bytes()).hexdigest()
            _json(RECORD, lambda record: record.update(recipe_sha256=digest))(folder)

    return damage


RECIPE, RECORD, ENGINE = "vision.fp16.recipe.json", "vision.fp16.json", "vision.fp16.engine"
CARRIED: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "no folder": (shutil.rmtree, 2, "holds no recipes"),
    "an empty folder": (lambda f: [shutil.rmtree(f), f.mkdir()], 2, "holds no recipes"),
    "no engine": (lambda f: (f / ENGINE).unlink(), 2, "run build.sh there first"),
    "no record": (lambda f: (f / RECORD).unlink(), 2, "run build.sh there first"),
    "an engine cut short": (lambda f: (f / ENGINE).write_bytes((f / ENGINE).read_bytes()[:-1]), 2, "is damaged"),
    "a record cut short": (lambda f: (f / RECORD).write_bytes((f / RECORD).read_bytes()[:-9]), 2, "is damaged"),
    "a recipe cut short": (lambda f: (f / RECIPE).write_bytes((f / RECIPE).read_bytes()[:-9]), 2, "no recipe that"),
    "a recipe edited": (_json(RECIPE, lambda r: r.update(workspace=1)), 2, "from another recipe"),
    "a newer recipe": (_json(RECIPE, lambda r: r.update(schema=2)), 2, "has schema 2"),
    "another component": (_json(RECIPE, lambda r: r.update(component="decoder"), True), 2, "from another bundle"),
    "no such component": (_json(RECIPE, lambda r: r.update(component="audio"), True), 2, "audio"),
    "another precision asked for": (
        _json(RECIPE, lambda r: [r.update(outputs=[{**r["outputs"][0], "dtype": "float32"}])], True),
        1,
        "visual_memory is float16 in the engine, float32 was asked for",
    ),
    "a recipe without profiles": (_json(RECIPE, lambda r: r.pop("profiles"), True), 2, "is damaged"),
    "a recipe without a name": (_json(RECIPE, lambda r: r.pop("engine"), True), 2, "is damaged"),
    "a recipe with numbers for matrices": (_json(RECIPE, lambda r: r.update(quantized=5), True), 2, "is damaged"),
    "a recipe with matrices of no bytes": (
        _json(RECIPE, lambda r: r.update(quantized={"dtype": "int8", "layers": 1, "bytes": 0}), True),
        2,
        "is damaged",
    ),
    "a recipe twice": (
        lambda f: shutil.copy(f / RECIPE, f / "vision.fp16 (copy).recipe.json"),
        2,
        f"more than one recipe of {ENGINE}, {RECORD}",
    ),
    "a record without a GPU's place": (_json(RECORD, lambda r: r.pop("gpu")), 2, "is damaged"),
    "a record without layers": (_json(RECORD, lambda r: r.update(layers=[])), 1, "could not be read"),
    "a record that leads out": (_json(RECORD, lambda r: r.update(tensorrt="/../../../out")), 2, "outside the bundle"),
}


@pytest.mark.parametrize(("damage", "code", "message"), CARRIED.values(), ids=list(CARRIED))
def test_a_carried_folder_that_was_changed_is_not_adopted(
    damage: Callable[[Path], object], code: int, message: str, command: Command, plain: Path, finished: Path
) -> None:
    folder = Path(shutil.copytree(finished, plain.parent / "folder"))
    damage(folder)
    before = contents(plain)
    done = command("trt", plain, "--adopt", folder)
    assert done.code == code and message in done.err and done.out == "", done.err
    assert contents(plain) == before and not list(plain.parent.glob("out*"))


def test_the_folder_of_another_bundle_is_not_adopted(command: Command, plain: Path, finished: Path) -> None:
    with change(plain) as (writer, manifest):
        graph = plain / "graphs/vision.onnx"
        graph.write_bytes(graph.read_bytes() + b"\x72\x00")
        writer.record("graphs/vision.onnx")
        writer.write_manifest(manifest)
    before = contents(plain)
    done = command("trt", plain, "--adopt", finished)
    assert done.code == 2 and "was made from another bundle" in done.err and contents(plain) == before


def test_an_engine_whose_graph_is_replaced_meanwhile_is_not_entered(
    command: Command, plain: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = building._copied
    held: list[dict[str, bytes]] = []

    def replaced(*arguments: Any) -> Any:
        with change(plain) as (writer, manifest):
            graph = plain / "graphs/vision.onnx"
            graph.write_bytes(graph.read_bytes() + b"\x72\x00")
            writer.record("graphs/vision.onnx")
            writer.write_manifest(manifest)
        held.append(contents(plain))
        return copy(*arguments)

    monkeypatch.setattr(building, "_copied", replaced)
    done = command("trt", plain, "--adopt", finished)
    assert done.code == 2 and "the fp16 graph of vision was replaced" in done.err and "build it again" in done.err
    assert contents(plain) == held[0]


def full_disk(*arguments: object, **named: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("tensorrt_here")
@pytest.mark.parametrize("step", ["write_recipe", "enter"])
def test_a_disk_that_fills_up_is_said_and_leaves_nothing(
    step: str, command: Command, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(plain)
    monkeypatch.setattr(building, step, full_disk)
    done = command("trt", plain, "--target", "tensorrt", "--component", "vision")
    assert done.code == 3 and f"the disk of {plain} is full" in done.verdict
    assert contents(plain) == before and [p.name for p in plain.parent.iterdir()] == ["plain"]


@pytest.mark.usefixtures("tensorrt_here")
def test_a_disk_that_is_too_small_is_noticed_before_any_work(
    command: Command, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = shutil.disk_usage(plain)._replace(free=1000)
    monkeypatch.setattr(building.shutil, "disk_usage", lambda folder: used)
    for words in ([], ["--lower-only", plain.parent / "folder"]):
        done = command("trt", plain, "--target", "tensorrt", *words)
        assert done.code == 3 and "the disk is too small" in done.verdict and "1,000 are free" in done.verdict
    assert [path.name for path in plain.parent.iterdir()] == ["plain"]


def test_places_that_cannot_be_written(command: Command, plain: Path, finished: Path) -> None:
    before = contents(plain)
    (plain / "engines").write_text("not a folder")
    done = command("trt", plain, "--adopt", finished)
    assert done.code == 3 and "engines" in done.verdict
    (plain / "engines").unlink()
    assert contents(plain) == before
    (plain.parent / "file").touch()
    done = command("trt", plain, "--target", "tensorrt", "--lower-only", plain.parent / "file" / "folder")
    assert done.code == 3 and "cannot be written" in done.verdict and contents(plain) == before
    if os.geteuid() == 0:
        return
    plain.chmod(0o555)
    done = command("trt", plain, "--adopt", finished)
    plain.chmod(0o755)
    assert done.code == 3 and "cannot be written" in done.verdict and contents(plain) == before


@contextmanager
def building_forever(bundle: Path, *words: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`trt` of the vision component in a process of its own, in the middle of a TensorRT that never ends, and the
    number of the process that TensorRT is in."""
    folder = bundle.parent / "endless"
    (folder / "tensorrt").mkdir(parents=True, exist_ok=True)
    number = folder / "number"
    number.unlink(missing_ok=True)
    (folder / "tensorrt" / "__init__.py").write_text(
        "import os, sys, time\n"
        "__version__ = '11.4.0'\n"
        "class ILogger:\n    def __init__(self): pass\n"
        "def Builder(log): pass\n"
        "if sys.argv[1] == 'build':\n"
        f"    with open({str(number) + '.part'!r}, 'w') as file:\n        file.write(str(os.getpid()))\n"
        f"    os.rename({str(number) + '.part'!r}, {str(number)!r})\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", MAIN, "trt", str(bundle), "--target", "tensorrt", "--component", "vision"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    with subprocess.Popen(
        [*command, *map(str, words)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not number.exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        child = int(number.read_text())
        try:
            yield process, child
        finally:
            for one in (process.pid, child):
                if _lives(one):
                    os.kill(one, signal.SIGKILL)


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_leaves_nothing_and_its_child_ends(
    number: signal.Signals, command: Command, plain: Path, finished: Path
) -> None:
    before = contents(plain)
    with building_forever(plain) as (process, child):
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "Traceback" not in said and not _lives(child)
    assert said.splitlines()[-1].startswith("error: interrupted")
    assert contents(plain) == before and not list(plain.glob(".engines.partial-*"))
    assert command("trt", plain, "--adopt", finished).code == 0, "nothing is locked"


def test_a_killed_child_is_a_message(plain: Path) -> None:
    before = contents(plain)
    with building_forever(plain) as (process, child):
        os.kill(child, signal.SIGKILL)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 3 and "Traceback" not in said
    assert "was killed" in said.splitlines()[-1] and "memory" in said.splitlines()[-1]
    assert contents(plain) == before and not list(plain.glob(".engines.partial-*"))


def test_a_killed_build_leaves_a_partial_folder_that_the_next_one_removes(
    command: Command, plain: Path, finished: Path
) -> None:
    before = contents(plain)
    with building_forever(plain) as (process, child):
        process.kill()
        process.communicate(timeout=30)
        os.kill(child, signal.SIGKILL)
    (left,) = plain.glob(".engines.partial-*")
    assert {name: data for name, data in contents(plain).items() if not name.startswith(left.name)} == before
    assert command("inspect", plain).code == 0
    assert command("trt", plain, "--adopt", finished).code == 0
    assert not left.exists() and len(Bundle.open(plain, verify=True).manifest["engines"]) == 1


def test_an_engine_can_be_entered_while_another_is_built(command: Command, plain: Path, finished: Path) -> None:
    with building_forever(plain):
        (held,) = plain.glob(".engines.partial-*")
        assert command("trt", plain, "--adopt", finished).code == 0
        assert held.is_dir(), "the other one's work is left alone"
    assert len(Bundle.open(plain, verify=True).manifest["engines"]) == 1


@pytest.mark.usefixtures("tensorrt_here")
def test_two_builds_at_once_both_come_in(plain: Path) -> None:
    words = [sys.executable, "-c", MAIN, "trt", str(plain), "--target", "tensorrt", "--max-batch", "2", "--component"]
    both = [subprocess.Popen([*words, name], stderr=subprocess.PIPE, text=True) for name in ("vision", "decoder")]
    for process in both:
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
    bundle = Bundle.open(plain, verify=True)
    assert {entry["component"] for entry in bundle.manifest["engines"]} == {"vision", "decoder"}


def test_a_finished_build_waits_for_whoever_changes_the_bundle(plain: Path, finished: Path) -> None:
    words = [sys.executable, "-c", MAIN, "trt", str(plain), "--adopt", str(finished)]
    with change(plain):
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=3)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert len(Bundle.open(plain, verify=True).manifest["engines"]) == 1
