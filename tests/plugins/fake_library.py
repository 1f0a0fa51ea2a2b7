"""A library that says what `plugin build` makes its libraries say, compiled by the system's C compiler."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

SAID = {
    "operators": ["VisualMemoryFFN"],
    "version": "1",
    "schema": 1,
    "types": ["float32", "float16", "bfloat16"],
    "archs": ["80", "87", "90"],
    "ptx": ["90"],
    "build_id": "0123456789abcdef",
    "headers_version": "10.0.0",
    "cuda_version": "12.8",
}


def put_library(path: Path, function: str = "memvp_plugin_info", first: str = "") -> Path:
    """Compile the library to `path`, with the C statement `first` in its function; skips without a compiler."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    code = f"#include <unistd.h>\nconst char* {function}(void) {{ {first} return {json.dumps(json.dumps(SAID))}; }}"
    words = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(words, input=code, text=True, check=True)
    return path
