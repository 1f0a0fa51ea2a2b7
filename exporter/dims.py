"""Dimensions of tensors as graphs and manifests write them: a number, a name, or a sum of names such as
"past_sequence + sequence", where a name may be there many times: "8*height". Inside graphs there are products of names
too: "64*height*width"."""

import re
from collections.abc import Mapping
from functools import cache
from math import prod

Dim = int | str | None
# The columns of the text that an encoder reads and a decoder looks at, as all ports of such models name them.
ENCODER_SEQUENCE = "encoder_sequence"
_TERM = re.compile(r"(?:(?P<times>[1-9]\d{0,3})\*)?(?P<name>[A-Za-z_]\w*)|\d+")


def terms(dim: Dim) -> list[str]:
    """The names, and numbers, that a dimension is the sum of: none of a number, or where nothing is said (None). What
    is no such sum, as "floor(width/2)" of another exporter, is one name."""
    return [*_terms(dim)] if isinstance(dim, str) else []


@cache
def _terms(dim: str) -> tuple[str, ...]:
    found = [_TERM.fullmatch(part.strip()) for part in dim.split("+")]
    parts = [[part["name"] or part[0]] * int(part["times"] or 1) for part in found if part]
    return tuple(name for part in parts for name in part) if all(found) else (dim,)


def without_term(dim: Dim, term: str) -> Dim:
    """A dimension such as "past_sequence + sequence" without one of its terms."""
    parts = terms(dim)
    return " + ".join(part for part in parts if part != term) if term in parts else dim


def multiple(times: int, name: str) -> str:
    """The dimension that is `times` the length of `name`."""
    return name if times == 1 else f"{times}*{name}"


def length(dim: int | str, lengths: Mapping[str, int]) -> int:
    """The length of a dimension, or a sum of products, whose names have these. Raises KeyError for a name that has
    none."""
    if isinstance(dim, int):
        return dim
    # What another exporter writes may be one name.
    if dim in lengths:
        return lengths[dim]
    parts = [[factor.strip() for factor in part.split("*")] for part in dim.split("+")]
    return sum(prod(int(name) if name.isdigit() else lengths[name] for name in part) for part in parts)


def known_length(dim: Dim, lengths: Mapping[str, int]) -> int | None:
    """The length of a dimension, None where that of one of its names is not known."""
    try:
        return None if dim is None else length(dim, lengths)
    except KeyError:
        return None
