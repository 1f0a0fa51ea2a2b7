"""Optimization profiles: the shapes an engine is built for, from sizes that a user knows.

Inputs are known by the names of their dimensions alone. A component with a past gets two profiles: `prefill`, many
new columns, and `decode`, one after any past. Every other component gets one, `default`. Within a profile all
inputs agree: "past_sequence + sequence" is the sum of what the two names stand for. Where no input has the past as a
dimension of its own, its buffer is static, and the sum goes no further than that.

A profile is a box: it would also admit its longest sequence after its longest past, and TensorRT sets memory aside for
that. So `prefill` takes half of all columns as new ones after a past of the other half; who runs a longer prompt gives
it in pieces. Static buffers are of one size, and take whole sequences.

What an engine is tuned for (opt), unless shapes say otherwise: half the largest batch; 64 columns in prefill, after no
past; a past half full in decode; the logits of one column; the largest size of an image that it makes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..dims import ENCODER_SEQUENCE, length, terms
from ..errors import InputError
from .shape_texts import Shapes

BATCH, SEQUENCE, PAST, POSITIONS = "batch", "sequence", "past_sequence", "positions"
# Of images that are made: the largest size is the usual one.
SIDES = ("height", "width")
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

    max_batch (8 unless given) and max_seq, columns of past and sequence together, or of a text that is read (all unless
    given), bound every profile. min_shapes, opt_shapes and max_shapes give inputs by name; what they say of a dimension
    holds for all inputs, in decode for all but the new column, in prefill as far as its new columns leave room for a
    past. Raises InputError where a size lies outside the ranges, or shapes do not fit the ports, one another, or
    max_batch and max_seq.
    """
    largest = _largest(ranges, max_batch, max_seq)
    given = {
        which: _sizes(shapes or {}, inputs, which)
        for which, shapes in zip(_WHICH, (min_shapes, opt_shapes, max_shapes), strict=True)
    }
    for option, bound, bounded in (
        ("--max-batch", max_batch, [BATCH]),
        ("--max-seq", max_seq, [name for name in ranges if name.endswith(SEQUENCE)]),
    ):
        if bound is not None:
            _check_bound(option, bound, {name: largest[name] for name in bounded if name in ranges}, given)
    names = ("prefill", "decode") if PAST in ranges else ("default",)
    static = PAST in ranges and not any(PAST in port["dims"] for port in inputs)
    columns = largest[PAST] + 1 if PAST in ranges and not static else None
    if columns and SEQUENCE in ranges:
        largest[SEQUENCE] = min(largest[SEQUENCE], _new_columns(columns, given))
    if POSITIONS in ranges and SEQUENCE in ranges:
        largest[POSITIONS] = min(largest[POSITIONS], given["max"].get(SEQUENCE, largest[SEQUENCE]))
    capacity = ranges[PAST][1] + 1 if static else None
    limits = {name: _limits(name, ranges, largest, given) for name in names}
    if columns and SEQUENCE in ranges:
        _leave_room(limits["prefill"], columns)
    return [_profile(name, inputs, limits[name], capacity) for name in names]


def _new_columns(columns: int, given: Mapping[str, Sizes]) -> int:
    """The most new columns of a prefill where nobody says: half of all, more where shapes ask for less past."""
    asked = [given[which].get(SEQUENCE, 1) for which in ("min", "opt")]
    return max(columns // 2, columns - given["max"].get(PAST, columns), *asked)


def _leave_room(limits: Mapping[str, Sizes], columns: int) -> None:
    """Bound the past by what the most new columns leave of all."""
    room = max(0, columns - limits["max"][SEQUENCE])
    for which in _WHICH:
        limits[which][PAST] = min(limits[which][PAST], room)


def _largest(ranges: Mapping[str, Sequence[int]], max_batch: int | None, max_seq: int | None) -> Sizes:
    largest = {name: highest for name, (_, highest) in ranges.items()}
    if BATCH in ranges:
        _check_within(BATCH, max_batch, ranges, "--max-batch")
        largest[BATCH] = max_batch or min(DEFAULT_BATCH, largest[BATCH])
    if max_seq is not None:
        if ENCODER_SEQUENCE in ranges:
            largest[ENCODER_SEQUENCE] = min(largest[ENCODER_SEQUENCE], max_seq)
        if SEQUENCE in ranges:
            _check_within(SEQUENCE, max_seq, ranges, "--max-seq")
            largest[SEQUENCE] = max_seq
        if PAST in ranges:
            largest[PAST] = min(largest[PAST], max_seq - 1)
    return largest


def _check_bound(option: str, bound: int, largest: Sizes, given: Mapping[str, Sizes]) -> None:
    """Raise InputError where shapes go beyond what an option allows for the dimensions that it bounds."""
    for name, highest in largest.items():
        for which, sizes in given.items():
            if sizes.get(name, 0) > highest:
                raise InputError(
                    f"--{which}-shapes asks for {name} = {sizes[name]}, and {option} {bound} leaves {highest} at most: "
                    "give shapes within it, or leave it out."
                )


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
    if name in SIDES:
        return highest
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
    total = length(dim, sizes)
    return min(total, capacity) if capacity and len(terms(dim)) > 1 else total


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
        equations += [(terms(dim), size, text) for dim, size in zip(dims, shape, strict=True) if isinstance(dim, str)]
    sizes: Sizes = {}
    # Single names first: they decide what is left of a sum.
    for parts, size, text in sorted(equations, key=lambda equation: len({*equation[0]})):
        open_terms = [term for term in parts if term not in sizes]
        rest = size - sum(sizes[term] for term in parts if term in sizes)
        if len({*open_terms}) > 1:
            raise InputError(f"{text} gives {' + '.join(parts)} only as a sum: give an input with {parts[-1]} too.")
        if rest != 0 if not open_terms else rest < 0:
            raise InputError(f"{text} does not agree with the other shapes on {' + '.join(parts)}.")
        if open_terms and rest % len(open_terms):
            raise InputError(f"{text}: {size} is no multiple of {len(open_terms)}, which this model takes.")
        sizes |= {term: rest // len(open_terms) for term in open_terms}
    return sizes
