"""The shapes of a call beside what the ports of a component take."""

from collections.abc import Mapping, Sequence
from typing import Any

from .dims import known_length, terms
from .errors import InputError

Ports = Sequence[Mapping[str, Any]]
Shapes = Mapping[str, Sequence[int]]


def check_dims(ports: Ports, shapes: Shapes) -> dict[str, int]:
    """The lengths of the inputs' named dimensions. Raises InputError where the shapes do not have the ports' dims, or
    contradict one another."""
    ports = _distinct(ports, shapes)
    for port in ports:
        shape, dims = shapes[port["name"]], port["dims"]
        if len(shape) != len(dims):
            raise InputError(f"the input {port['name']!r} has the shape {list(shape)}; it takes {_named(dims)}")
    lengths = lengths_of(ports, shapes)
    for name, length in lengths.items():
        if length < 0:
            raise InputError(f"the inputs' shapes leave {length} for {name}: give them lengths that belong together.")
    for port in ports:
        # A sum is known where all its parts have an axis of their own somewhere.
        expected = [known_length(dim, lengths) for dim in port["dims"]]
        shape = shapes[port["name"]]
        if any(wanted not in (None, given) for given, wanted in zip(shape, expected, strict=True)):
            raise InputError(
                f"the input {port['name']!r} has the shape {list(shape)}; beside the other inputs it takes "
                f"{[dim if length is None else length for dim, length in zip(port['dims'], expected, strict=True)]}, "
                f"which is {_named(port['dims'])}"
            )
    return lengths


def check_call(component: str, entry: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise InputError for what `check_dims` refuses, and where a dimension is shorter or longer than the component
    takes; entry is that of a manifest."""
    ports, ranges = entry["inputs"], entry["ranges"]
    for name, length in check_dims(ports, shapes).items():
        low, high = ranges.get(name, (length, length))
        if not low <= length <= high:
            port = next(port["name"] for port in ports if any(name in terms(dim) for dim in port["dims"]))
            raise InputError(
                f"the input {port!r} has the shape {list(shapes[port])}, whose {name} is {length}; {component} takes "
                f"{low} to {high}."
            )


def lengths_of(ports: Ports, shapes: Shapes) -> dict[str, int]:
    """The lengths of the named dimensions: where a name stands alone, else what its sum with known ones leaves for it,
    as with the past of a static cache. Ports without a shape are passed over."""
    found: dict[str, int] = {}
    sums = []
    for port in ports:
        for length, dim in zip(shapes.get(port["name"], ()), port["dims"], strict=False):
            parts = terms(dim)
            if len({*parts}) == 1:
                # What is no multiple leaves a rest, and so another shape than was given.
                found.setdefault(parts[0], length // len(parts))
            elif parts:
                sums.append((parts, length))
    for parts, length in sums:
        unknown = [part for part in parts if part not in found]
        if len(unknown) == 1:
            found[unknown[0]] = length - sum(found[part] for part in parts if part in found)
    return found


def _distinct(ports: Ports, shapes: Shapes) -> Ports:
    """Ports without those of the dims and the shape of one before: a cache of many layers has hundreds of them."""
    found: dict[Any, Mapping[str, Any]] = {}
    for port in ports:
        found.setdefault((tuple(port["dims"]), tuple(shapes[port["name"]])), port)
    return list(found.values())


def _named(dims: Sequence[int | str]) -> str:
    return "[" + ", ".join(map(str, dims)) + "]"
