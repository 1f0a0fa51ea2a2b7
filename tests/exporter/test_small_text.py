"""Text files of a user's, and what is said of those that are none."""

import os
from pathlib import Path

import pytest
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.small_text import read_small_text


def read(path: Path) -> str:
    return read_small_text(path, "list", "Give a list.")


def test_text_is_read_without_its_mark(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfgr\xc3\xbcn\r\n")
    assert read(tmp_path / "a") == "grün\n"


def test_what_is_no_small_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", (64 << 20) + 1)
    for name, message in (
        ("bytes", "bytes is no text. Give a list."),
        ("large", "large is no list: it has more than 64 MiB. Give a list."),
        ("none", "none is not a file. Give a list."),
        ("large/none", "none is not a file. Give a list."),
        (".", "is not a file. Give a list."),
    ):
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)
