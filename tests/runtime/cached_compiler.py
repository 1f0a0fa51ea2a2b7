"""COMPILER... -c SOURCE -o OBJECT, from the user's cache where nothing that goes into it has changed: a launcher for
CMake. Usage: python cached_compiler.py KEPT_FOLDER BUILD_FOLDER SOURCES:... COMPILER...
What is compiled may include any header or source of the folders SOURCES."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

_CODE = (".h", ".cpp")


def main() -> int:
    kept, build, folders, *words = sys.argv[1:]
    if "-c" not in words:
        return subprocess.call(words)
    source, target = Path(words[words.index("-c") + 1]), Path(words[words.index("-o") + 1])
    told = "\n".join(word.replace(build, "") for word in words).encode()
    included = [
        path for folder in folders.split(":") for path in sorted(Path(folder).rglob("*")) if path.suffix in _CODE
    ]
    parts = [told, *(path.read_bytes() for path in [source, *included])]
    key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:32]
    held = Path(kept) / f"{source.stem}-{key}.o"
    if not held.is_file():
        if code := subprocess.call(words):
            return code
        held.parent.mkdir(parents=True, exist_ok=True)
        whole = held.with_name(f".{held.name}.{os.getpid()}")
        shutil.copyfile(target, whole)
        whole.replace(held)
    shutil.copyfile(held, target)
    if "-MF" in words:
        Path(words[words.index("-MF") + 1]).write_text(f"{words[words.index('-MT') + 1]}:\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
