"""Dimensions of tensors as graphs and manifests write them: a number, a name, or a sum of names such as
"past_sequence + sequence"."""

import re
from collections.abc import Mapping

Dim = int | str | None
_TERM = re.compile(r"[A-Za-z_]\w*|\d+")


def terms(dim: Dim) -> list[str]:
    """The names, and numbers, that a dimension is the sum of: none of a number, or where nothing is said (None). What
    is no such sum, as "floor(width/2)" of another exporter, is one name."""
    if not isinstance(dim, str):
        return []
    parts = [part.strip() for part in dim.split("+")]
    return parts if all(_TERM.fullmatch(part) for part in parts) else [dim]


def without_term(dim: Dim, term: str) -> Dim:
    """A dimension such as "past_sequence + sequence" without one of its terms."""
    return " + ".join(part for part in terms(dim) if part != term) if isinstance(dim, str) else dim


def length(dim: int | str, lengths: Mapping[str, int]) -> int:
    """The length of a dimension whose names have these. Raises KeyError for a name that has none."""
    if isinstance(dim, int):
        return dim
    return sum(int(term) if term.isdigit() else lengths[term] for term in terms(dim))


def known_length(dim: Dim, lengths: Mapping[str, int]) -> int | None:
    """The length of a dimension, None where that of one of its names is not known."""
    try:
        return None if dim is None else length(dim, lengths)
    except KeyError:
        return None
