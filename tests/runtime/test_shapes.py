"""Dimensions, shapes, profiles and caches are judged as Python does it, in the same words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.cache import pieces
from memvp_export.exporter.call_shapes import check_dims
from memvp_export.exporter.dims import terms
from memvp_export.exporter.engines import shapes as python
from memvp_export.exporter.errors import ToolError
from memvp_export.exporter.kv_cache import KVCache

from . import closed_form
from .conftest import Refused

Host = Callable[..., Any]
KINDS = ("concat", "delta", "in_place")


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ToolError as error:
        return type(error).__name__, str(error)
    except Refused as refused:
        return refused.kind, str(refused)


DIMS = [
    3,
    "batch",
    "past_sequence + sequence",
    "8*height",
    "2*a+3 * b",
    "12*",
    "x + 4",
    "a  +b",
    "floor(w/2)",
    "0*a",
    "",
]


@pytest.mark.parametrize("dim", DIMS)
def test_terms_of_dimensions(host: Host, dim: int | str) -> None:
    assert host("terms", dim=dim) == terms(dim)


def test_a_sum_of_too_many_names_is_one(host: Host) -> None:
    """A line of a manifest would fill the memory."""
    dim = "9999*a+" * 100 + "b"
    assert host("terms", dim=dim) == [dim]


@pytest.mark.parametrize(("columns", "most"), [(1, 1), (5, 2), (6, 2), (7, 16), (16, 16), (33, 16)])
def test_pieces_of_a_prompt(host: Host, columns: int, most: int) -> None:
    assert host("pieces", columns=columns, most=most) == pieces(columns, most)


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_over_all_profiles(host: Host, kind: str) -> None:
    entry = closed_form.entry(kind)
    assert host("built ranges", entry=entry) == python.built_ranges(entry)


def shapes_of(entry: dict[str, Any], batch: int, columns: int, past: int, **changed: list[int]) -> dict[str, list[int]]:
    lengths = {"batch": batch, "sequence": columns, "past_sequence": past, "positions": 1}
    made = {
        port["name"]: [
            dim if isinstance(dim, int) else sum(lengths[term] for term in terms(dim)) for dim in port["dims"]
        ]
        for port in entry["inputs"]
    }
    return {**made, **changed}


CALLS: list[tuple[int, int, int, dict[str, list[int]]]] = [
    (1, 1, 0, {}),
    (1, 1, 9, {}),
    (2, 7, 0, {}),
    (4, 16, 16, {}),
    (2, 17, 0, {}),
    (5, 1, 3, {}),
    (1, 1, 31, {}),
    (1, 1, 32, {}),
    (2, 7, 0, {"input_ids": [2, 8]}),
    (2, 7, 0, {"input_ids": [2]}),
    (2, 7, 3, {"attention_mask": [2, 5]}),
    (2, 7, 0, {"visual_memory": [2, 3, 2]}),
    (2, 1, 3, {"logits_positions": [2, 2]}),
]


@pytest.mark.parametrize("positions", [[0, 5], [3, 40], [-1, 2]])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_of_a_call(
    host: Host, kind: str, call: tuple[int, int, int, dict[str, list[int]]], positions: list[int]
) -> None:
    entry = closed_form.entry(kind)
    batch, columns, past, changed = call
    shapes = shapes_of(entry, batch, columns, past, **changed)
    feed = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
    feed["position_ids"] = np.resize(np.array(positions, np.int64), shapes["position_ids"])

    def in_python() -> int:
        lengths = check_dims(entry["inputs"], {name: tuple(shape) for name, shape in shapes.items()})
        python.check_columns(entry, lengths, feed["position_ids"])
        return python.choose_profile(entry, shapes)

    given = feed["position_ids"].ravel().tolist()
    found = outcome(lambda: host("check shapes", entry=entry, shapes=shapes, positions=given))
    assert found == outcome(in_python)


def test_the_calls_end_in_many_ways(host: Host) -> None:
    entry, said = closed_form.entry("delta"), set()
    for batch, columns, past, changed in CALLS:
        shapes = shapes_of(entry, batch, columns, past, **changed)
        said.add(str(outcome(lambda shapes=shapes: host("check shapes", entry=entry, shapes=shapes, positions=[0]))))
    assert {"0", "1"} <= said and len(said) >= 9


def broken(form: str, **cache: Any) -> dict[str, Any]:
    entry = closed_form.entry(form)
    return {**entry, "cache": {**entry["cache"], **cache}}


CACHES = [
    *(closed_form.entry(kind) for kind in KINDS),
    broken("delta", layers=3),
    broken("delta", kind="ring"),
    broken("concat", axis=1),
    {**closed_form.entry("delta"), "cache": None},
    {**closed_form.entry("delta"), "cache": None, "inputs": []},
]


@pytest.mark.parametrize("grown", [3, 8, 5, 32])
@pytest.mark.parametrize("held", [0, 5, 30])
@pytest.mark.parametrize("entry", CACHES)
def test_what_a_cache_holds_and_how_it_grows(host: Host, entry: dict[str, Any], held: int, grown: int) -> None:
    present = [2, closed_form.HEADS, grown, closed_form.HEAD_DIM]

    def in_python() -> list[list[int]]:
        cache = KVCache(entry, "fp32", 2)
        static = "in_place" in str(entry["cache"])
        if held and cache.past:
            shape = [2, closed_form.HEADS, closed_form.entry("in_place")["cache"]["capacity"], closed_form.HEAD_DIM]
            shape[2] = shape[2] if static else held
            cache.update({name: np.zeros(shape, np.float32) for name in cache.present}, held)
        shapes = [list(array.shape) for array in cache.inputs().values()]
        if cache.past:
            cache.update({name: np.zeros(present, np.float32) for name in cache.present}, 3)
        return shapes

    asked = {"entry": entry, "batch": 2, "held": held, "shape": present, "columns": 3}
    assert outcome(lambda: host("present", **asked)) == outcome(in_python)
