"""A shared library as a file, looked at before it is opened: the system's loader ends the process on one that was cut
short, and TensorRT says nothing of one that it cannot open."""

from __future__ import annotations

import platform
import struct
import sys
from pathlib import Path

# The heads of a 64-bit file and of each of its segments, as <elf.h> lays them out.
_HEAD = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_BEGINS, _SHARED = b"\x7fELF", 3
_64_BITS_LITTLE_ENDIAN = b"\x02\x01"
_MACHINES = {62: "x86_64", 183: "aarch64"}


def library_fault(path: str | Path) -> str:
    """Why this machine cannot open a file as a shared library, in words that follow its name; empty where it may.

    Where the system is not Linux, whose libraries alone are known here, nothing is found. Raises OSError.
    """
    if not sys.platform.startswith("linux"):
        return ""
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(_HEAD.size)
        if not head.startswith(_BEGINS):
            return "is empty" if not size else "is no shared library"
        if len(head) < _HEAD.size:
            return _cut_short(size)
        begin, kind, machine, _, _, segments, sections, _, _, length, count, each, number, _ = _HEAD.unpack(head)
        if kind != _SHARED:
            return "is no shared library: it is a program, or a part of one"
        here = platform.machine()
        if begin[4:6] != _64_BITS_LITTLE_ENDIAN or _MACHINES.get(machine, here) != here:
            return f"is a library for {_MACHINES.get(machine, 'another processor')}, and this machine is {here}"
        file.seek(segments)
        table = file.read(length * count)
    if len(table) < length * count or length < _SEGMENT.size:
        return _cut_short(size)
    held = [_SEGMENT.unpack_from(table, index * length) for index in range(count)]
    ends = [sections + each * number, *(offset + filled for _, _, offset, _, _, filled, _, _ in held)]
    return _cut_short(size, max(ends)) if max(ends) > size else ""


def _cut_short(size: int, whole: int | None = None) -> str:
    """`whole`: the bytes that it should have at least, where that is known."""
    return f"is cut short: it has {size:,} bytes" + (f" of {whole:,}" if whole else "")
