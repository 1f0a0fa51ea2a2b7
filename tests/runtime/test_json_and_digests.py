"""JSON is read, written and refused as Python does it; digests are SHA-256."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Refused

Host = Callable[..., Any]
VALUES = [
    {"b": [1, -2, 0], "a": {"z": None, "ä": True, "A": False}, "": ""},
    [0.1, 1e-5, 1e-4, 123456789.125, 1e15, 1e16, 1.5e300, 5e-324, -0.0, 1 / 3, 2**53 + 1.0, 100.0, 1 / 255],
    [math.inf, -math.inf, 10**30, -(10**18)],
    ['"\\/\b\f\n\r\t\x00\x1f\x7f', "é ß 漢 😀 \ud800", "\u2028"],
    [[[[]]], {}, {"x": {}}],
]


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("value", VALUES)
def test_canonical_text_is_pythons(host: Host, tmp_path: Path, value: object, ascii_only: bool) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(json.dumps(value, indent=1, ensure_ascii=ascii_only).encode(errors="surrogatepass"))
    assert host("canonical", file=file) == canonical(value)


def test_canonical_text_of_many_doubles(host: Host, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    doubles = generator.integers(0, 2**63, 3000, np.uint64).view(np.float64)
    values = [value for value in doubles.tolist() if math.isfinite(value)]
    values += [float(f"{value:.{digits}g}") for value in values[:200] for digits in (1, 5, 15, 16)]
    values += [round(value, 3) for value in generator.normal(0, 1000, 500).tolist()]
    file = tmp_path / "x.json"
    file.write_text(json.dumps(values))
    assert host("canonical", file=file) == canonical(values)


def test_numbers_beyond_all_doubles_and_names_that_are_there_twice(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    text = '[1e400, -1e400, 1e-400, 0.00001e-330, 123E+500, 1E5, -0, {"a": 1, "b": 2, "a": 3}, "\\ud83d\\ude00"]'
    file.write_text(text)
    assert host("canonical", file=file) == canonical(json.loads(text))


TEXTS: list[bytes] = [
    b"",
    b"  ",
    b"nul",
    b"[1, 2",
    b"[1 2]",
    b'{"a" 1}',
    b'{"a": }',
    b"{a: 1}",
    b'{"a": 1',
    b'{"a": 1 "b"',
    b'{"a": 1}\n x',
    b'["abc',
    b'["a\nb"]',
    b'["\\x"]',
    b'["\\u12g4"]',
    b'["\\u12',
    b'["a\\',
    b"[01]",
    b"[1.]",
    b"[-]",
    b"[+1]",
    b"[.5]",
    b"{\n  'a': 1}",
    '["ä", "漢"\n, "é" x]'.encode(),
    b'["\xff"]',
    b'["\xc3"]',
    b'["\xe6\xbc"]',
    b'["\xf0\x80\x80\x80"]',
    b'{"a": tru}',
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_json_is_refused_in_pythons_words(host: Host, tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(text)
    with pytest.raises(ValueError) as expected:
        json.loads(text)
    with pytest.raises(Refused) as found:
        host("canonical", file=file)
    assert str(found.value) == str(expected.value)


def test_what_would_take_all_of_the_stack_is_refused(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("[" * 1_000_000)
    with pytest.raises(Refused, match="nested too deeply"):
        host("canonical", file=file)


@pytest.mark.parametrize(
    "value", ["a", "it's", 'it\'s "x"', "a\\b\n\t\x01\x7f", "é漢", 1, -2.5, 1e-7, None, [True, {"a": 1}]]
)
def test_quoted_values_are_pythons(host: Host, value: object) -> None:
    assert host("repr", value=value) == repr(value)


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, (1 << 20) + 17])
def test_digests_of_files(host: Host, tmp_path: Path, size: int) -> None:
    file = tmp_path / "x"
    file.write_bytes(np.random.default_rng(size).bytes(size))
    assert host("sha256", file=file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_both_ways_to_compress_blocks_agree(host: Host, tmp_path: Path) -> None:
    """The processor's instructions, where it has them, and plain C++."""
    (tmp_path / "x").write_bytes(np.random.default_rng(1).bytes(64 * 9))
    states = host("plain blocks", file=tmp_path / "x")
    assert states[:8] == states[8:] and len(set(states)) == 8
