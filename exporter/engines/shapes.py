"""The shapes of a call beside what an engine's cache and profiles take."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ..call_shapes import Shapes, lengths_of
from ..errors import InputError
from .profiles import PAST, SEQUENCE

POSITION_IDS = "position_ids"


class NoProfile(InputError):
    """The engine was built for other shapes than these; they may be right for the model."""


def check_columns(entry: Mapping[str, Any], lengths: Mapping[str, int], ids: np.ndarray | None) -> None:
    """Raise InputError where an engine with a cache gets more columns of past and sequence than it serves, or ids of
    positions that are not in its table of rotary angles: TensorRT would read beside it. lengths are those of the
    inputs' named dimensions."""
    if not entry["cache"]:
        return
    capacity, kind = entry["cache"]["capacity"], entry["cache"]["kind"]
    past, new = lengths.get(PAST, 0), lengths.get(SEQUENCE, 0)
    if past + new > capacity:
        raise NoProfile(
            f"{past} columns of past and {new} new ones are more than the {capacity} that the engine of "
            f"{entry['component']} serves: give shorter texts, or build it with a larger --max-seq."
        )
    # With concat the angles are computed.
    if kind != "concat" and ids is not None and ids.size and not 0 <= ids.min() <= ids.max() < capacity:
        raise InputError(
            f"the input {POSITION_IDS!r} has {ids.min()} to {ids.max()}; the engine of {entry['component']} has angles "
            f"for positions 0 to {capacity - 1}."
        )


def choose_profile(entry: Mapping[str, Any], shapes: Shapes, name: str | None = None) -> int:
    """The index of the engine's profile that holds the shapes: the narrowest one, so that a decode step does not run
    with what was tuned for prefill. That is the one in which the fewest dimensions vary, then that of the smallest
    shapes. With a name, that one or none.

    Raises NoProfile with each profile's ranges, InputError for a profile that the engine does not have.
    """
    profiles = entry["profiles"]
    names = [profile["name"] for profile in profiles]
    if name is not None and name not in names:
        raise InputError(f"the engine of {entry['component']} has no profile {name!r}; it has {', '.join(names)}")
    asked = [index for index, each in enumerate(names) if name in (None, each)]
    misfits = {index: _misfits(profiles[index], shapes) for index in asked}
    if fitting := [index for index in asked if not misfits[index]]:
        return min(fitting, key=lambda index: _width(profiles[index]))
    reasons = "; ".join(f"{names[index]} takes {', '.join(misfits[index])}" for index in asked)
    raise NoProfile(
        f"no profile of the engine of {entry['component']} holds these shapes: {reasons}. Build one for them: "
        "`memvp-export trt` with --max-batch, --max-seq or --min-shapes, --opt-shapes, --max-shapes."
    )


def built_ranges(entry: Mapping[str, Any]) -> dict[str, list[int]]:
    """[lowest, highest] of every dynamic dimension over all profiles of the engine; its graph may take more."""
    found: dict[str, list[int]] = {}
    for profile in entry["profiles"]:
        for point in ("min", "max"):
            shapes = {name: limits[point] for name, limits in profile["shapes"].items()}
            for dim, length in lengths_of(entry["inputs"], shapes).items():
                low, high = found.get(dim, (length, length))
                found[dim] = [min(low, length), max(high, length)]
    return found


def _misfits(profile: Mapping[str, Any], shapes: Shapes) -> list[str]:
    return [
        f"{name} {_range(limits['min'], limits['max'])}, not {list(shapes[name])}"
        for name, limits in profile["shapes"].items()
        if not all(low <= d <= high for low, d, high in zip(limits["min"], shapes[name], limits["max"], strict=True))
    ]


def _range(low: Sequence[int], high: Sequence[int]) -> str:
    return "[" + ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(low, high, strict=True)) + "]"


def _width(profile: Mapping[str, Any]) -> tuple[int, int]:
    shapes = profile["shapes"].values()
    varying = sum(low != high for limits in shapes for low, high in zip(limits["min"], limits["max"], strict=True))
    return varying, sum(prod(limits["max"]) for limits in shapes)
