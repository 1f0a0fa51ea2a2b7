"""Sizes with units, in bytes."""

import pytest
from memvp_export.exporter.engines.byte_size import parse_size
from memvp_export.exporter.errors import InputError


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("512M", 512 << 20), ("4g", 4 << 30), ("1.5 GiB", 3 << 29), ("2KB", 2048), ("1T", 1 << 40)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "4X", "0", "4GG", "1e9", "8388608T"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write 512M or 4G"):
        parse_size(text)
