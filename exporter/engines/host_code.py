"""The host code in an engine's file: the plugin library that was embedded, and whether there is any other.

TensorRT 11.4 over RTX 1.7.1 writes the library's bytes into the engine as they are.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

# The head of a file that the dynamic loader takes: 64 bits, little-endian, version 1, for Linux, padded with zeros, a
# shared object. GPU code is ELF too, of another system and kind; random weights hold so many bytes by no chance.
_SHARED_OBJECT = re.compile(rb"\x7fELF\x02\x01\x01[\x00\x03].\x00{7}\x03\x00", re.DOTALL)


def holds_only(engine: str | Path, library: str | Path) -> bool:
    """Whether the engine holds the bytes of the library, and no shared object beside it.

    False where the library is of a system whose programs this does not know.
    """
    code = Path(library).read_bytes()
    own = [found.start() for found in _SHARED_OBJECT.finditer(code)]
    if own[:1] != [0]:
        return False
    with Path(engine).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(code)
        found = [one.start() for one in _SHARED_OBJECT.finditer(data)]
    return start >= 0 and found == [start + offset for offset in own]
