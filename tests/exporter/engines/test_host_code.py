"""The code that an engine brings with it is known by its bytes; what else is in the engine's file does not matter."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from memvp_export.exporter.engines.host_code import holds_only


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Two shared objects, the first with GPU code in it."""
    compiler = shutil.which("cc") or shutil.which("gcc") or pytest.skip("no C compiler")
    folder, made = tmp_path_factory.mktemp("libraries"), []
    gpu_code = "\\x7f" + "ELF\\2\\1\\1\\x33\\7\\0\\0\\0\\0\\0\\0\\0\\2\\0\\xbe\\0"
    for number in (1, 2):
        (folder / "code.c").write_text(f'char const gpu[] = "{gpu_code}"; int number(void) {{ return {number}; }}')
        subprocess.run([compiler, "-shared", "-fPIC", folder / "code.c", "-o", folder / "code.so"], check=True)
        made.append((folder / "code.so").read_bytes())
    return made


WEIGHTS = random.Random(5).randbytes(100_000)
# Weights may hold these four bytes by chance, and kernels are such files.
MAGIC, KERNEL = b"\x7fELF", b"\x7fELF\x02\x01\x01\x41\x08" + bytes(7) + b"\x02\x00\xbe\x00"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("WA", True),
        ("WAMKW", True),
        ("W", False),
        ("WMK", False),
        ("WB", False),
        ("AB", False),
        ("BA", False),
        ("Wa", False),
    ],
)
def test_an_engine_holds_the_library_or_not(parts: str, expected: bool, libraries: list[bytes], tmp_path: Path) -> None:
    first, second = libraries
    known = {"A": first, "B": second, "a": first[:-1], "W": WEIGHTS, "M": MAGIC, "K": KERNEL}
    (tmp_path / "lib.so").write_bytes(first)
    (tmp_path / "an.engine").write_bytes(b"".join(known[part] for part in parts))
    assert holds_only(tmp_path / "an.engine", tmp_path / "lib.so") is expected


def test_a_library_of_another_system_is_never_recognized(tmp_path: Path) -> None:
    code = b"MZ" + WEIGHTS[:500]
    (tmp_path / "lib.dll").write_bytes(code)
    (tmp_path / "an.engine").write_bytes(WEIGHTS + code)
    assert not holds_only(tmp_path / "an.engine", tmp_path / "lib.dll")
