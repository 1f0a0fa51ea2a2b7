"""The plugin library is found, and asked what it is without TensorRT."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from memvp_export.exporter.errors import InputError
from memvp_export.plugins import loader
from memvp_export.plugins.loader import built_library, find_library, library_info

from .fake_library import SAID, put_library


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEMVP_PLUGIN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_library_says_what_it_is(tmp_path: Path) -> None:
    path = put_library(tmp_path / "lib.so")
    info = library_info(path)
    assert json.loads(json.dumps(info.to_dict())) == SAID | {
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_the_library_that_was_named_comes_before_the_built_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_library() is None
    built_library().parent.mkdir(parents=True)
    built_library().touch()
    assert find_library() == built_library() == tmp_path / "cache/memvp-export/plugins/libmemvp_plugins.so"
    other = tmp_path / "other.so"
    other.touch()
    monkeypatch.setenv("MEMVP_PLUGIN", str(other))
    assert find_library() == other
    assert find_library(built_library()) == built_library()


def test_a_named_library_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"there is no plugin library .*none\.so\.$"):
        find_library(tmp_path / "none.so")
    monkeypatch.setenv("MEMVP_PLUGIN", str(tmp_path / "gone.so"))
    with pytest.raises(InputError, match=r"gone\.so \(MEMVP_PLUGIN\)"):
        find_library()


def test_what_is_no_plugin_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="plugin build` makes one"):
        library_info(tmp_path / "none.so")
    (tmp_path / "text.so").write_text("not a library")
    with pytest.raises(InputError, match=r"text\.so is no shared library\. Build one here"):
        library_info(tmp_path / "text.so")
    whole = put_library(tmp_path / "whole.so").read_bytes()
    half = len(whole) // 2
    (tmp_path / "cut.so").write_bytes(whole[:half])
    with pytest.raises(InputError, match=rf"cut\.so is cut short: it has {half:,} bytes of {len(whole):,}\."):
        library_info(tmp_path / "cut.so")
    with pytest.raises(InputError, match="is not a library that `memvp-export plugin build` made"):
        library_info(put_library(tmp_path / "foreign.so", "another_function"))


def test_a_library_that_crashes_is_refused(tmp_path: Path) -> None:
    crashing = put_library(tmp_path / "lib.so", "memvp_plugin_info", "__builtin_trap();")
    with pytest.raises(InputError, match=r"cannot be loaded on this machine: crashed \(SIG\w+\)\. Build one"):
        library_info(crashing)


def test_a_library_that_hangs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_SECONDS", 0.5)
    hanging = put_library(tmp_path / "lib.so", "memvp_plugin_info", "for (;;) pause();")
    with pytest.raises(InputError, match=r"did not answer within 0\.5 s\. Build one here"):
        library_info(hanging)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("0", "is not a library that `memvp-export plugin build` made"),
        ('""', "is not a library that"),
        ('"[1]"', "is not a library that"),
        ('"no JSON"', "is not a library that"),
        ('"{}"', "made by another version of this tool: it differs in archs, build_id, "),
        (json.dumps(json.dumps(SAID | {"more": 1})), r"it differs in more\. Build one here"),
    ],
)
def test_a_library_that_says_something_else_is_refused(tmp_path: Path, answer: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        library_info(put_library(tmp_path / "lib.so", "memvp_plugin_info", f"return {answer};"))


def test_what_a_library_prints_does_not_matter(tmp_path: Path) -> None:
    noisy = put_library(tmp_path / "lib.so", "memvp_plugin_info", 'write(1, "noise", 5);')
    assert library_info(noisy).build_id == SAID["build_id"]


def test_a_library_that_was_built_again_is_read_again(tmp_path: Path) -> None:
    path = put_library(tmp_path / "lib.so")
    before = library_info(path)
    other = put_library(tmp_path / "other.so", "another_function")
    other.replace(path)
    with pytest.raises(InputError):
        library_info(path)
    assert before.build_id == SAID["build_id"]


def test_machine_code_serves_later_minor_versions_and_ptx_all_later_gpus(tmp_path: Path) -> None:
    info = library_info(put_library(tmp_path / "lib.so"))
    assert all(info.runs_on(capability) for capability in ("80", "86", "87", "89", "90", "100", "120"))
    assert not info.runs_on("75")
    # Embedded GPUs run only what was compiled for themselves, and others not what was compiled for them.
    desktop = replace(info, archs=("80",), ptx=())
    assert desktop.runs_on("89") and not desktop.runs_on("87") and not desktop.runs_on("90")
    assert not replace(info, archs=("87",), ptx=()).runs_on("89")
