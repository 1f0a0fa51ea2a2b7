"""Output files: whole or not at all, never in place of a device or of a bundle's own file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.whole_file import whole_file


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), whole_file(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with whole_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with whole_file(path) as file:
        file.write(b"through")
    assert os.read(reader, 100) == b"through" and path.is_fifo()
    os.close(reader)


@pytest.mark.parametrize("name", ["manifest.json", "graphs/vision.onnx"])
def test_a_file_of_a_bundle_is_not_replaced(name: str, bundle_of: Callable[[str], Path]) -> None:
    path = bundle_of("fp32") / name
    before = path.read_bytes()
    with pytest.raises(InputError, match="is a file of the bundle"), whole_file(path) as file:
        file.write(b"x")
    assert path.read_bytes() == before


def test_a_new_file_beside_those_of_a_bundle_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "memvp-export bundle", "files": {}}')
    with whole_file(tmp_path / "reports/check.html") as file:
        file.write(b"x")
    assert (tmp_path / "reports/check.html").read_bytes() == b"x"
