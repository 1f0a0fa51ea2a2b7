"""What is no whole shared library of this machine is known before the system's loader sees it."""

import subprocess
import sys
from pathlib import Path

import pytest
from memvp_export.exporter.engines.shared_library import library_fault

from ...plugins.fake_library import put_library

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux's libraries are looked into")
# Where e_type and e_machine stand in the head, and where its count of segments does.
KIND, MACHINE, SEGMENTS = 16, 18, 56


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return put_library(tmp_path / "lib.so")


def test_a_whole_library_has_no_fault(library: Path) -> None:
    assert library_fault(library) == ""
    stripped = subprocess.run(["strip", "--strip-all", library], capture_output=True)
    assert stripped.returncode or library_fault(library) == ""


def test_wherever_it_is_cut_that_is_seen(library: Path) -> None:
    whole = library.read_bytes()
    for length in (4, 63, 64, 100, 500, len(whole) // 2, len(whole) - 1):
        library.write_bytes(whole[:length])
        assert library_fault(library).startswith(f"is cut short: it has {length:,} bytes"), length
    assert library_fault(library).endswith(f" of {len(whole):,}")
    # As of a loader that was killed by it: a segment behind the end is what it falls over.
    library.write_bytes(whole[: len(whole) // 2])
    opened = subprocess.run([sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", library])
    assert opened.returncode != 0


def test_what_is_something_else_is_said(library: Path) -> None:
    whole = library.read_bytes()

    def fault(data: bytes) -> str:
        library.write_bytes(data)
        return library_fault(library)

    def changed(place: int, value: bytes) -> bytes:
        return whole[:place] + value + whole[place + len(value) :]

    assert fault(b"") == "is empty"
    assert fault(b"{}" * 99) == fault(b"MZ" + bytes(99)) == "is no shared library"
    assert fault(changed(KIND, b"\x01\x00")).startswith("is no shared library: it is a program")
    other = b"\xb7\x00" if whole[MACHINE] == 62 else b"\x3e\x00"
    named = {62: "aarch64", 183: "x86_64"}[whole[MACHINE]]
    assert fault(changed(MACHINE, other)).startswith(f"is a library for {named}, and this machine is ")
    assert fault(changed(4, b"\x01")).startswith("is a library for ")
    assert fault(changed(SEGMENTS, b"\xff\xff")).startswith("is cut short")
