"""Sizes as users write them: 512M, 4G, 1.5GiB, 1000000."""

import re

from ..errors import InputError

_UNITS = {unit: 1 << shift for unit, shift in (("", 0), ("K", 10), ("M", 20), ("G", 30), ("T", 40))}


def parse_size(text: str) -> int:
    """Bytes; a unit is a power of 1024. Raises InputError where the text is no size from 1 to 2^63 - 1."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise InputError(f"{text!r} is not a size: write 512M or 4G.")
    if size >= 1 << 63:
        raise InputError(f"{text!r} is larger than any memory: write 512M or 4G.")
    return size
