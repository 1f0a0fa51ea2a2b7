"""The plugin check, on libraries that are compiled here and say of themselves what a test wants."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from memvp_export.exporter.doctor import plugin as subject
from memvp_export.plugins.build import build_id

INFO = {
    "operators": ["VisualMemoryFFN"],
    "version": "1",
    "schema": 1,
    "types": ["float32", "float16"],
    "archs": ["80", "90"],
    "ptx": ["90"],
    "headers_version": "10.0.0",
    "cuda_version": "13.0",
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Compile this body of memvp_plugin_info into the library that MEMVP_PLUGIN names."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ on PATH")

    def compile_one(body: str) -> Path:
        path = tmp_path / "lib.so"
        source = f'#include <cstdlib>\nextern "C" const char* memvp_plugin_info() {{ {body} }}'
        command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(path)]
        subprocess.run(command, input=source, text=True, check=True)
        monkeypatch.setenv("MEMVP_PLUGIN", str(path))
        return path

    return compile_one


def saying(**changes: object) -> str:
    return f"return {json.dumps(json.dumps({**INFO, 'build_id': 'of other sources', **changes}))};"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Let the machine have a GPU of this compute capability, or none."""

    def change(capability: str | None) -> None:
        found = {"name": "a GPU", "sm": capability} if capability else None
        monkeypatch.setattr(subject, "first_gpu", lambda: {"gpu": found})

    change(None)
    return change


def test_a_library_is_loaded_and_described(library: Callable[[str], Path], gpu: Callable[..., None]) -> None:
    path = library(saying(build_id=build_id("10.0.0")))
    (check,) = subject.check_plugin()
    assert check.status == "ok"
    for words in ("VisualMemoryFFN", "float32, float16", "sm_80 90", "PTX 90", build_id("10.0.0"), str(path)):
        assert words in check.detail
    assert "other sources" not in check.detail and check.fix == ""
    library(saying())
    (check,) = subject.check_plugin()
    assert "of other sources than those installed here" in check.detail and "memvp-export plugin build" in check.fix


@pytest.mark.parametrize(("capability", "status"), [("86", "ok"), ("120", "ok"), ("75", "broken"), ("87", "broken")])
def test_its_code_is_held_against_the_gpu(
    library: Callable[[str], Path], gpu: Callable[..., None], capability: str, status: str
) -> None:
    library(saying())
    gpu(capability)
    _, coverage = subject.check_plugin()
    assert coverage.status == status and f"sm_{capability}" in coverage.detail
    assert coverage.fix == ("" if status == "ok" else f"memvp-export plugin build --arch {capability}")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("abort();", "cannot be loaded on this machine"),
        ('return "{}";', "build_id"),
        ('return "[";', "is not a library"),
    ],
)
def test_a_library_that_dies_or_lies_is_broken(
    library: Callable[[str], Path], gpu: Callable[..., None], body: str, detail: str
) -> None:
    path = library(body)
    (check,) = subject.check_plugin()
    assert check.status == "broken" and detail in check.detail and str(path) in check.detail
    assert check.fix == "memvp-export plugin build"


def test_no_library_is_missing_and_a_wrong_name_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEMVP_PLUGIN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (check,) = subject.check_plugin()
    assert check.status == "missing" and "memvp-export plugin build" in check.fix and not check.needed
    monkeypatch.setenv("MEMVP_PLUGIN", str(tmp_path / "absent.so"))
    assert subject.check_plugin()[0].status == "broken"
    text = tmp_path / "text.so"
    text.write_text("not a library")
    monkeypatch.setenv("MEMVP_PLUGIN", str(text))
    (check,) = subject.check_plugin()
    assert check.status == "broken" and "is no shared library" in check.detail
