"""Plugin libraries, and engines that need or carry one, are judged as in Python; nothing of one runs unasked."""

import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.bundle import sha256_file
from memvp_export.exporter.engines.host_code import holds_only
from memvp_export.exporter.engines.shared_library import library_fault
from memvp_export.exporter.errors import ToolError
from memvp_export.plugins.loader import PluginInfo, library_info

from . import closed_form, engine_bundle
from .conftest import HERE, Compiler, Probe, Refused

Host = Callable[..., Any]
SAID = {
    "operators": ["VisualMemoryFFN"],
    "version": "1",
    "schema": 1,
    "types": ["float32"],
    "archs": ["80", "90"],
    "ptx": ["120"],
    "build_id": "a1b2c3",
    "headers_version": "10.0.0",
    "cuda_version": "13.0",
}


def compiled(folder: Path, name: str, said: str) -> Path:
    program = shutil.which("gcc") or shutil.which("cc")
    if not program:
        pytest.skip("no C compiler")
    library = folder / name
    text = json.dumps(said)
    words = [
        program,
        "-shared",
        "-fPIC",
        "-Wall",
        "-Werror",
        f"-DSAID={text}",
        HERE / "plugin_library.c",
        "-o",
        library,
    ]
    subprocess.run(list(map(str, words)), check=True)
    return library


@pytest.fixture(scope="module")
def library(compiler: Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("plugin"), "libplugin.so", json.dumps(SAID))


def damaged(library: Path, folder: Path) -> dict[str, Path]:
    whole = library.read_bytes()
    other = 183 if struct.unpack_from("<H", whole, 18)[0] == 62 else 62
    cases = {
        "whole": whole,
        "empty": b"",
        "text": b"hello",
        "head cut": whole[:40],
        "table cut": whole[:100],
        "half": whole[: len(whole) // 2],
        "last byte": whole[:-1],
        "a program": whole[:16] + struct.pack("<H", 2) + whole[18:],
        "of another machine": whole[:18] + struct.pack("<H", other) + whole[20:],
        "of 32 bits": whole[:4] + b"\x01" + whole[5:],
    }
    for name, data in cases.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in cases}


def test_files_that_are_no_libraries(host: Host, library: Path, tmp_path: Path) -> None:
    files = damaged(library, tmp_path)
    said = {name: host("library fault", file=file) for name, file in files.items()}
    assert said == {name: library_fault(file) for name, file in files.items()}
    assert said["whole"] == "" and len(set(said.values())) >= 7


def test_host_code_in_an_engine(host: Host, library: Path, tmp_path: Path) -> None:
    code = library.read_bytes()
    other = code[:200] + bytes([code[200] ^ 1]) + code[201:]
    engines = {
        "none": b"weights" * 100,
        "its own": b"weights" + code + b"more",
        "another": b"weights" + other,
        "both": code + other,
        "its own twice": code + code,
        "half of it": b"weights" + code[: len(code) // 2],
    }
    found, expected = {}, {}
    for name, data in engines.items():
        (tmp_path / name).write_bytes(data)
        found[name] = host("holds only", engine=tmp_path / name, library=library)
        expected[name] = holds_only(tmp_path / name, library)
    assert found == expected and [name for name in found if found[name]] == ["its own"]


@pytest.mark.parametrize("capability", ["75", "80", "86", "87", "90", "100", "120", "121"])
@pytest.mark.parametrize("built", [(["80", "90"], []), (["80"], ["90"]), (["87"], []), (["86"], ["120"])])
def test_gpus_that_a_library_has_code_for(
    host: Host, tmp_path: Path, built: tuple[list[str], list[str]], capability: str
) -> None:
    (tmp_path / "x").touch()
    said = {**SAID, "archs": built[0], "ptx": built[1]}
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    expected = PluginInfo(path=tmp_path, sha256="", **tuples).runs_on(capability)  # type: ignore[arg-type]
    assert host("runs on", file=tmp_path / "x", said=json.dumps(said), capability=capability) == expected


def bundle_with(root: Path, plugin: dict[str, Any], code: bytes = b"") -> Path:
    """A bundle whose last engine of the decoder needs a plugin; code lies behind what the fake TensorRT reads."""
    decoder = closed_form.entry("delta")
    engine_bundle.make(root, {**decoder, "tensorrt": "10.3.0.1"})
    entry = {**engine_bundle.whole_entry(decoder, number=1), "plugin": plugin, "lowering": "plugin"}
    engine_bundle.enter(root, entry, files={entry["file"]: json.dumps(entry).encode() + b"\n" + code})
    return root


WANTED = {"operators": ["VisualMemoryFFN"], "build_id": "a1b2c3", "sha256": None, "embedded": False}


def outcome(engine_program: Path, root: Path, variables: dict[str, str] | None = None, **options: Any) -> str:
    """What opening a bundle says, in an environment with these variables; "" where it opens and answers."""
    cache = {"XDG_CACHE_HOME": str(root.parent / "cache")}
    environment = {name: value for name, value in os.environ.items() if name != "MEMVP_PLUGIN"} | cache
    probe = Probe([engine_program], environment | (variables or {}))
    try:
        probe("open", root=root, **{"trusted": False, "device": 0, **options})
        assert probe("answer", questions=[{"ids": [5, 4]}], max_new_tokens=5, batch=0) != [[]]
        return ""
    except Refused as refused:
        return str(refused)
    finally:
        probe("close")
        probe.close()


def test_a_library_is_found_where_python_finds_it(engine_program: Path, library: Path, tmp_path: Path) -> None:
    root = bundle_with(tmp_path / "b", WANTED)
    assert "and none is installed: `memvp-export plugin build`" in outcome(engine_program, root)
    assert outcome(engine_program, root, plugin=str(library)) == ""
    assert outcome(engine_program, root, {"MEMVP_PLUGIN": str(library)}) == ""
    built = tmp_path / "cache/memvp-export/plugins/libmemvp_plugins.so"
    built.parent.mkdir(parents=True)
    shutil.copyfile(library, built)
    assert outcome(engine_program, root) == ""
    named = {"MEMVP_PLUGIN": "/none.so"}
    assert "(there is no plugin library /none.so (MEMVP_PLUGIN).)" in outcome(engine_program, root, named)
    missing = outcome(engine_program, root, {"FAKE_NO_CREATORS": "1"})
    assert missing.startswith(f"tensorrt 10.13.3.9 cannot load the plugin: {built} has no creator of VisualMemoryFFN.")


def test_nothing_is_looked_for_where_the_process_stands(engine_program: Path, library: Path, tmp_path: Path) -> None:
    """A service may have no home, and anybody's folder before it."""
    root = bundle_with(tmp_path / "b", WANTED)
    built = tmp_path / ".cache/memvp-export/plugins/libmemvp_plugins.so"
    built.parent.mkdir(parents=True)
    shutil.copyfile(library, built)
    for variables, message in (({}, "and none is installed"), ({"HOME": str(tmp_path)}, "")):
        probe = Probe(["/usr/bin/env", "-C", tmp_path, engine_program], variables)
        try:
            probe("open", root=root, trusted=False, device=0)
            said = ""
        except Refused as refused:
            said = str(refused)
        probe("close")
        probe.close()
        assert bool(said) == bool(message) and message in said


def test_a_library_of_another_build_or_without_code_for_the_gpu(engine_program: Path, tmp_path: Path) -> None:
    other = compiled(tmp_path, "other.so", json.dumps({**SAID, "build_id": "ffff"}))
    elsewhere = compiled(tmp_path, "elsewhere.so", json.dumps({**SAID, "archs": ["80"]}))
    root = bundle_with(tmp_path / "b", WANTED)
    assert "build a1b2c3, here is ffff: `memvp-export plugin build` with" in outcome(
        engine_program, root, plugin=str(other)
    )
    assert "has no code for this GPU" in outcome(engine_program, root, plugin=str(elsewhere))
    lacking = bundle_with(tmp_path / "c", {**WANTED, "operators": ["VisualMemoryFFN", "More"]})
    good = compiled(tmp_path, "good.so", json.dumps(SAID))
    assert "it needs the operators More, which the plugin library here lacks" in outcome(
        engine_program, lacking, plugin=str(good)
    )


def test_what_is_no_library_of_the_tools_is_refused_in_pythons_words(engine_program: Path, tmp_path: Path) -> None:
    files = [
        compiled(tmp_path, "silent.so", "nothing"),
        compiled(tmp_path, "older.so", json.dumps({name: SAID[name] for name in SAID if name != "schema"} | {"x": 1})),
        *damaged(compiled(tmp_path, "whole.so", json.dumps(SAID)), tmp_path).values(),
    ]
    root = bundle_with(tmp_path / "b", WANTED)
    for file in files:
        said = outcome(engine_program, root, plugin=str(file))
        try:
            library_info(file)
            assert said == ""
        except ToolError as error:
            assert f"the one here cannot be used ({error})" in said


def test_an_engine_that_carries_code_is_run_only_where_it_is_known(
    engine_program: Path, library: Path, tmp_path: Path
) -> None:
    carried = {**WANTED, "embedded": True, "sha256": sha256_file(library)}
    code = library.read_bytes()
    root = bundle_with(tmp_path / "its own", carried, code)
    assert outcome(engine_program, root, plugin=str(library)) == ""
    refusal = outcome(engine_program, root)
    assert "carries a plugin library, code for this machine's processor, of build a1b2c3, which is not" in refusal
    assert outcome(engine_program, root, trusted=True) == ""
    claimed = bundle_with(tmp_path / "claimed", carried, code[:200] + bytes([code[200] ^ 1]) + code[201:])
    refusal = outcome(engine_program, claimed, plugin=str(library))
    assert re.search("and it is not, or not only, the one installed here, whatever the manifest says", refusal)
    assert outcome(engine_program, claimed, plugin=str(library), trusted=True) == ""
