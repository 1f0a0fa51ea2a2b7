"""Shapes as users write them: `name:1x3x224x224` or `name:[1,3,224,224]`, several separated by commas."""

import re
from collections.abc import Iterable, Mapping, Sequence

from ..errors import InputError

Shapes = Mapping[str, Sequence[int]]
_ONE = re.compile(r"\s*([\w.]+)\s*:\s*(\d+(?:x\d+)*|\[\s*\d+(?:\s*,\s*\d+)*\s*\])\s*(?:,|$)")


def parse_shapes(texts: Iterable[str]) -> dict[str, list[int]]:
    """The shapes of all texts by input name. Raises InputError where a text is no shape, or a name comes twice."""
    shapes: dict[str, list[int]] = {}
    for text in texts:
        start = 0
        while start < max(len(text), 1):
            found = _ONE.match(text, start)
            if found is None:
                raise InputError(f"the shapes {text!r} are not written as name:1x3x224x224 or name:[1,3,224,224].")
            if found[1] in shapes:
                raise InputError(f"the shape of {found[1]} is given twice.")
            shapes[found[1]] = [int(size) for size in re.findall(r"\d+", found[2])]
            start = found.end()
    return shapes
