"""Optimization profiles: the shapes an engine is built for, from sizes that a user knows.

Inputs are known by the names of their dimensions alone. A component with a past gets two profiles: `prefill`, whole
sequences after any past, and `decode`, one new column. Every other component gets one, `default`. Within a profile all
inputs agree: "past_sequence + sequence" is the sum of what the two names stand for. Where no input has the past as a
dimension of its own, its buffer is static, and the sum goes no further than that.

What an engine is tuned for (opt), unless shapes say otherwise: half the largest batch; 64 columns in prefill, after no
past; a past half full in decode; the logits of one column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .shape_texts import Shapes

BATCH, SEQUENCE, PAST, POSITIONS = "batch", "sequence", "past_sequence", "positions"
# More is for who asks for it: memory for activations is set aside for the largest batch.
DEFAULT_BATCH = 8
_COMMON_SEQUENCE = 64
_WHICH = ("min", "opt", "max")
Sizes = dict[str, int]


@dataclass(frozen=True)
class Profile:
    """A named profile: for every input its `min`, `opt` and `max` shape."""

    name: str
    shapes: dict[str, dict[str, list[int]]]


def make_profiles(
    inputs: Sequence[Mapping[str, Any]],
    ranges: Mapping[str, Sequence[int]],
    *,
    max_batch: int | None = None,
    max_seq: int | None = None,
    min_shapes: Shapes | None = None,
    opt_shapes: Shapes | None = None,
    max_shapes: Shapes | None = None,
) -> list[Profile]:
    """The profiles of a component with these ports and [lowest, highest] of each dynamic dimension.

    max_batch (8 unless given) and max_seq, columns of past and sequence together (all unless given), bound every
    profile. min_shapes, opt_shapes and max_shapes give inputs by name; what they say of a dimension holds for all
    inputs, in decode for all but the new column. Raises InputError where a size lies outside the ranges, or shapes do
    not fit the ports or one another.
    """
    largest = _largest(ranges, max_batch, max_seq)
    given = {
        which: _sizes(shapes or {}, inputs, which)
        for which, shapes in zip(_WHICH, (min_shapes, opt_shapes, max_shapes), strict=True)
    }
    if POSITIONS in ranges and SEQUENCE in ranges:
        columns = given["max"].get(SEQUENCE, largest[SEQUENCE])
        largest[POSITIONS] = min(largest[POSITIONS], columns)
    names = ("prefill", "decode") if PAST in ranges else ("default",)
    static = PAST in ranges and not any(PAST in port["dims"] for port in inputs)
    capacity = ranges[PAST][1] + 1 if static else None
    return [_profile(name, inputs, _limits(name, ranges, largest, given), capacity) for name in names]


def _largest(ranges: Mapping[str, Sequence[int]], max_batch: int | None, max_seq: int | None) -> Sizes:
    largest = {name: highest for name, (_, highest) in ranges.items()}
    if BATCH in ranges:
        _check_within(BATCH, max_batch, ranges, "--max-batch")
        largest[BATCH] = max_batch or min(DEFAULT_BATCH, largest[BATCH])
    if max_seq is not None:
        for name in ranges:
            if name.endswith(SEQUENCE) and name != PAST:
                _check_within(name, max_seq, ranges, "--max-seq")
                largest[name] = max_seq
        if PAST in ranges:
            largest[PAST] = min(largest[PAST], max_seq - 1)
    return largest


def _check_within(name: str, size: int | None, ranges: Mapping[str, Sequence[int]], source: str) -> None:
    lowest, highest = ranges[name]
    if size is not None and not lowest <= size <= highest:
        raise InputError(f"{source} asks for {name} = {size}; this component takes {lowest} to {highest}.")


def _limits(
    profile: str, ranges: Mapping[str, Sequence[int]], largest: Sizes, given: Mapping[str, Sizes]
) -> dict[str, Sizes]:
    """The sizes of all dimensions at min, opt and max."""
    limits: dict[str, Sizes] = {which: {} for which in _WHICH}
    for name, (lowest, _) in ranges.items():
        if profile == "decode" and name in (SEQUENCE, POSITIONS):
            low, common, high = 1, 1, 1
        else:
            for which in _WHICH:
                _check_within(name, given[which].get(name), ranges, f"--{which}-shapes")
            low = given["min"].get(name, lowest)
            high = given["max"].get(name, max(largest[name], low))
            common = given["opt"].get(name, min(max(_common(profile, name, high), low), high))
        if not low <= common <= high:
            raise InputError(
                f"the shapes ask for {name} of {low} at least, {common} commonly and {high} at most: give "
                "--min-shapes, --opt-shapes and --max-shapes that grow."
            )
        for which, size in zip(_WHICH, (low, common, high), strict=True):
            limits[which][name] = size
    return limits


def _common(profile: str, name: str, highest: int) -> int:
    """The size to tune for where nobody says."""
    if name == PAST:
        return highest // 2 if profile == "decode" else 0
    if name == POSITIONS:
        return 1
    return min(_COMMON_SEQUENCE, highest) if name.endswith(SEQUENCE) else -(-highest // 2)


def _profile(
    name: str, inputs: Sequence[Mapping[str, Any]], limits: Mapping[str, Sizes], capacity: int | None
) -> Profile:
    shapes = {
        port["name"]: {which: [_size(dim, limits[which], capacity) for dim in port["dims"]] for which in _WHICH}
        for port in inputs
    }
    return Profile(name, shapes)


def _size(dim: int | str, sizes: Sizes, capacity: int | None) -> int:
    if isinstance(dim, int):
        return dim
    total = sum(sizes[term] for term in _terms(dim))
    return min(total, capacity) if capacity and "+" in dim else total


def _terms(dim: str) -> list[str]:
    return [term.strip() for term in dim.split("+")]


def _sizes(shapes: Shapes, inputs: Sequence[Mapping[str, Any]], which: str) -> Sizes:
    """What explicit shapes say of the named dimensions."""
    ports = {port["name"]: port["dims"] for port in inputs}
    equations = []
    for name, shape in shapes.items():
        text = f"--{which}-shapes {name}:{'x'.join(map(str, shape))}"
        if name not in ports:
            raise InputError(f"{text}: there is no input {name!r}; there is {', '.join(ports)}.")
        dims = ports[name]
        if len(dims) != len(shape) or any(
            isinstance(d, int) and d != size for d, size in zip(dims, shape, strict=True)
        ):
            raise InputError(f"{text} does not fit {name}, which is {'x'.join(map(str, dims))}.")
        equations += [(_terms(dim), size, text) for dim, size in zip(dims, shape, strict=True) if isinstance(dim, str)]
    sizes: Sizes = {}
    # Single names first: they decide what is left of a sum.
    for terms, size, text in sorted(equations, key=lambda equation: len(equation[0])):
        open_terms = [term for term in terms if term not in sizes]
        rest = size - sum(sizes[term] for term in terms if term in sizes)
        if len(open_terms) > 1:
            raise InputError(f"{text} gives {' + '.join(terms)} only as a sum: give an input with {terms[-1]} too.")
        if rest != 0 if not open_terms else rest < 0:
            raise InputError(f"{text} does not agree with the other shapes on {' + '.join(terms)}.")
        sizes |= dict.fromkeys(open_terms, rest)
    return sizes
