"""What a lowered graph takes, said of a component before it is lowered: its inputs, ranges and cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...dims import terms, without_term
from ...errors import InputError
from ...kv_cache import KVCache
from .cache import past_dim


@dataclass(frozen=True)
class Ports:
    """inputs are the manifest's, with the dims that the lowered graph gives them; ranges those of its dynamic
    dimensions; cache is {"kind", "axis", "layers", "capacity"}, capacity in columns, None without one."""

    inputs: list[dict[str, Any]]
    ranges: dict[str, list[int]]
    cache: dict[str, Any] | None


def ports_of(entry: Mapping[str, Any], kind: str, capacity: int | None, single_pass: bool) -> Ports:
    """The ports of a component (an entry of the manifest's `components`) with a cache of this kind; see `lower`.

    Raises InputError for a capacity that the decoder does not have.
    """
    inputs, ranges = [dict(port) for port in entry["inputs"]], dict(entry["ranges"])
    if not entry["cache"]:
        return Ports(inputs, _named(inputs, ranges), None)
    past, names = past_dim(entry), KVCache(entry, "fp32", 1).past
    if single_pass:
        inputs = [
            {**port, "dims": [without_term(dim, past) for dim in port["dims"]]}
            for port in inputs
            if port["name"] not in names
        ]
        return Ports(inputs, _named(inputs, ranges), None)
    cache = _cache(entry, kind, capacity)
    if kind == "in_place":
        ranges |= _within(entry, cache["capacity"])
        for port in inputs:
            if port["name"] in names:
                axis = cache["axis"]
                port["dims"] = [*port["dims"][:axis], cache["capacity"], *port["dims"][axis + 1 :]]
    return Ports(inputs, _named(inputs, ranges), cache)


def _named(inputs: list[dict[str, Any]], ranges: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """The ranges of the dimensions that inputs have."""
    named = {term for port in inputs for dim in port["dims"] for term in terms(dim)}
    return {name: limits for name, limits in ranges.items() if name in named}


def _cache(entry: Mapping[str, Any], kind: str, capacity: int | None) -> dict[str, Any]:
    # The past of the last call and its new column.
    most = entry["ranges"][past_dim(entry)][1] + 1
    if kind != "in_place" or capacity is None:
        capacity = most
    if not 1 <= capacity <= most:
        raise InputError(f"a cache of {capacity} columns was asked for (--max-seq); this decoder takes 1 to {most}.")
    return {**entry["cache"], "kind": kind, "capacity": capacity}


def _within(entry: Mapping[str, Any], capacity: int) -> dict[str, list[int]]:
    """The ranges of past and new columns that fit into a static cache."""
    past = past_dim(entry)
    # The published present has their sum.
    total: str = next(dim for port in entry["outputs"] for dim in port["dims"] if past in str(dim))
    limits = {term: entry["ranges"][term] for term in terms(total)}
    return {term: [low, min(high, capacity - (term == past))] for term, (low, high) in limits.items()}
