"""Every profile of an engine at its least, usual and greatest shapes, beside the reference on random inputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ..cache import is_present, past_of
from ..call_shapes import lengths_of
from ..dims import length
from ..engines.session import TensorRTSession
from ..kv_cache import KVCache
from ..models.component import Component
from ..session import Arrays, Session
from .anew import random_inputs, wanted
from .golden import Case, columns_of, complete, left_by
from .image_points import image_inputs
from .replay import Pair, cache_pairs, used_columns

POINTS = ("min", "opt", "max")
_COPIES = 4


def engine_points(
    session: TensorRTSession,
    reference: Session,
    components: Sequence[Component],
    budget: int,
    note: Callable[[str], None],
) -> Iterator[Pair]:
    """The outputs of each component's engine at the three points of each of its profiles, run with that profile.

    The reference runs all columns at once, the engine the last of them on a past that is the reference's own. Points of
    one profile that are the same are run once. Where a point's tensors would take more than `budget` bytes it is run on
    fewer rows, and where the profile's fewest take more too it is left out; note is told of either. Raises NoProfile
    where a profile's shapes do not belong together.
    """
    for component in components:
        entry = session.entries[component.name]
        for profile in entry["profiles"]:
            seen = []
            for point in POINTS:
                title = f"profile {profile['name']} at its {point}"
                lengths = _lengths(entry, profile, point)
                rows = min(lengths["batch"], budget // _bytes(entry, {**lengths, "batch": 1}))
                if rows < _lengths(entry, profile, "min")["batch"]:
                    note(
                        f"{component.name}, {title}, was not run: this machine has too little memory for its reference"
                    )
                    continue
                if rows < lengths["batch"]:
                    note(f"{component.name}, {title}, was run on {rows} of {lengths['batch']} rows: memory is short")
                    lengths["batch"] = rows
                if lengths in seen:
                    continue
                seen.append(lengths)
                name = f"{title}: " + ", ".join(f"{k} {v}" for k, v in lengths.items())
                case, given = _case(reference, components, component, name, lengths)
                found = session.run(component.name, _taken(entry, given), None, profile["name"])
                yield from _pairs(case, given, _new_columns(entry, found, lengths))


def _lengths(entry: Mapping[str, Any], profile: Mapping[str, Any], point: str) -> dict[str, int]:
    """The lengths of the named dimensions at a point of a profile."""
    return lengths_of(entry["inputs"], {name: limits[point] for name, limits in profile["shapes"].items()})


def _bytes(entry: Mapping[str, Any], lengths: Mapping[str, int]) -> int:
    """About what comparing a call takes: its inputs and outputs in float32, the reference's, the engine's, and those of
    the comparison."""
    ports = (*entry["inputs"], *entry["outputs"])
    return 4 * _COPIES * sum(prod(length(dim, lengths) for dim in port["dims"]) for port in ports)


def _case(
    reference: Session, components: Sequence[Component], component: Component, name: str, lengths: Mapping[str, int]
) -> tuple[Case, Arrays]:
    """What the reference answers for the last columns, and the inputs of a call that has the others behind it."""
    batch, past, columns = lengths["batch"], lengths.get("past_sequence", 0), lengths.get("sequence", 1)
    random = np.random.default_rng(list(lengths.values()))
    known: Arrays = {}
    for part in components:
        asked_of = past + columns if part.cache else lengths.get(columns_of(part), past + columns)
        made = random_inputs(part, random, batch, asked_of, right_padding=False)
        inputs = complete(part, {**made, **image_inputs(part, random, lengths, known), **known})
        if part.name == component.name:
            break
        known |= left_by(part, inputs, reference.run(part.name, inputs, wanted(part)))
    if component.cache is None:
        return Case(component.name, name, inputs, reference.run(component.name, inputs)), inputs
    later: Arrays = {port: inputs[port][:, past:] for port in ("input_ids", "position_ids") if port in inputs}
    if "logits_positions" in inputs:
        # Where every row has a token.
        first = max(0, inputs["input_ids"].shape[1] // 3 - past)
        asked = np.linspace(first, columns - 1, lengths["positions"]).round().astype(np.int64)
        inputs["logits_positions"] = np.tile(past + asked, (batch, 1))
        later["logits_positions"] = np.tile(asked, (batch, 1))
    whole = reference.run(component.name, inputs)
    given = {**inputs, **later, **{past_of(n): a[:, :, :past] for n, a in whole.items() if is_present(n)}}
    outputs = {n: a[:, :, past:] if is_present(n) else a for n, a in whole.items()}
    if "logits_positions" not in inputs:
        outputs["logits"] = outputs["logits"][:, past:]
    return Case(component.name, name, given, outputs), given


def _taken(entry: Mapping[str, Any], given: Arrays) -> Arrays:
    """What the engine takes of the inputs; a past in place lies at the beginning of its buffer."""
    taken = {port["name"]: given[port["name"]] for port in entry["inputs"]}
    if entry["cache"] and entry["cache"]["kind"] == "in_place":
        for name in KVCache(entry, entry["precision"], 1).past:
            missing = entry["cache"]["capacity"] - taken[name].shape[2]
            taken[name] = np.pad(taken[name], ((0, 0), (0, 0), (0, missing), (0, 0)))
    return taken


def _new_columns(entry: Mapping[str, Any], found: Arrays, lengths: Mapping[str, int]) -> Arrays:
    """The outputs, of the caches the new columns alone."""
    if not entry["cache"]:
        return found
    columns = slice(-lengths["sequence"], None)
    if entry["cache"]["kind"] == "in_place":
        columns = slice(lengths["past_sequence"], lengths["past_sequence"] + lengths["sequence"])
    # A cache of kind concat returns the past too: how it was taken over, the golden samples show.
    return {name: array[:, :, columns] if is_present(name) else array for name, array in found.items()}


def _pairs(case: Case, given: Arrays, found: Arrays) -> Iterator[Pair]:
    for name, expected in case.outputs.items():
        if not is_present(name):
            yield Pair(case.component, case.name, name, found[name], expected)
    if not any(map(is_present, found)):
        return
    yield from cache_pairs(case, case.name, found, used_columns(given))
