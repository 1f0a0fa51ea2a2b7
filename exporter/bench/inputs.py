"""Inputs of a load: the bundle's golden samples where they fit a port, otherwise values its description allows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..cache import Cache, pieces
from ..dims import ENCODER_SEQUENCE, length, terms
from ..engines.profiles import SIDES
from ..kept import cache_of, kept
from ..kv_cache import KVCache
from ..parity.samples import read_cases
from ..session import Arrays, Session, dtype_of
from .loads import DECODE, Load

_SEED = 20240607
# What an input with one of these dimensions holds is of one call.
_OF_A_CALL = {"sequence", "past_sequence", "positions"}


def golden_arrays(bundle: Bundle) -> Arrays:
    """What the golden cases "rows" hold, by port name, without caches: real pictures, visual memories, and the
    ids of real texts."""
    known: Arrays = {}
    for case in read_cases(bundle):
        if case.name == "rows":
            arrays = {name: array for name, array in (case.outputs | case.inputs).items() if "." not in name}
            if "attention_mask" in arrays:
                # The columns that are masked hold random ids.
                arrays["input_ids"] = arrays["input_ids"][arrays["attention_mask"] != 0]
            # Of an encoder and its decoder, the first has read a text.
            known = arrays | known
    return known


def inputs_of(
    component: Mapping[str, Any], load: Load, past: int, columns: int, precision: str, known: Arrays
) -> Arrays:
    """One array for every input of `component` but its caches, in the dtypes that the graph takes: `columns` new
    columns after `past` ones, no padding, logits of the last column. Golden rows are repeated to fill the batch."""
    random = np.random.default_rng(_SEED)
    sizes = dict.fromkeys(component["ranges"], 1)
    # An image that is made is measured at its largest size.
    sizes |= {side: component["ranges"][side][1] for side in SIDES if side in sizes}
    sizes |= {"batch": load.batch, "sequence": columns, "past_sequence": past, "positions": 1}
    if ENCODER_SEQUENCE in sizes:
        sizes[ENCODER_SEQUENCE] = load.read or columns
    grown = KVCache(component, precision, load.batch).past
    vocab = next((port["dims"][-1] for port in component["outputs"] if port["name"] == "logits"), 2)
    made: Arrays = {}
    for port in component["inputs"]:
        name, shape = port["name"], [length(dim, sizes) for dim in port["dims"]]
        if name in grown:
            continue
        values: np.ndarray
        if name == "position_ids":
            values = np.broadcast_to(np.arange(past, past + columns), shape)
        elif name == "logits_positions":
            values = np.full(shape, columns - 1)
        elif "mask" in name or name.endswith("indicator"):
            values = np.ones(shape)
        elif name in known and (name == "input_ids" or list(known[name].shape[1:]) == shape[1:]):
            values = np.resize(known[name], shape)
        elif name == "input_ids":
            values = random.integers(0, vocab, shape)
        else:
            values = random.standard_normal(shape)
        made[name] = np.array(values, dtype_of(port["dtype"], precision), order="C")
    return made


def filled_cache(
    session: Session, component: Mapping[str, Any], load: Load, chunk: int, precision: str, known: Arrays
) -> Cache:
    """A cache of `load.past` columns, where the session has it, filled by a real prefill in calls of at most `chunk`
    columns."""
    cache = cache_of(session, load.component, component, precision, load.batch)
    for columns in pieces(load.past, chunk):
        feed = inputs_of(component, load, cache.length, columns, precision, known) | cache.inputs()
        cache.update(session.run(load.component, feed, cache.present), columns)
    return cache


def feed_of(
    session: Session, component: Mapping[str, Any], load: Load, chunk: int, precision: str, known: Arrays
) -> dict[str, Any]:
    """Every input of a call of `load`. A decode step has its past, and what does not change from step to step, where an
    application has them; any other call starts with an empty cache."""
    feed = inputs_of(component, load, load.past, load.columns, precision, known)
    if not component.get("cache"):
        return feed
    if load.stage != DECODE:
        return feed | cache_of(session, load.component, component, precision, load.batch).inputs()
    past = filled_cache(session, component, load, chunk, precision, known).inputs()
    dims = {port["name"]: {term for dim in port["dims"] for term in terms(dim)} for port in component["inputs"]}
    lasting = {name: array for name, array in feed.items() if _OF_A_CALL.isdisjoint(dims[name])}
    return feed | kept(session, load.component, lasting) | past
