"""`--keep-fp32`: the modules of a half graph that keep float32 weights and compute in float32.

A pattern is a glob of module names. A module is what its weights are named after, and its nodes in the graph too, so
that patterns which `check --bisect` prints can be given.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from .errors import InputError

# The entry of a graph's metadata that holds the patterns it was traced with, as JSON.
METADATA = "keep_fp32"
HALF = ("fp16", "bf16")
_NEAR = 3
_WO = ("*.DenseReluDense.wo",)
# What a family keeps whether or not it is asked for, by precision and component. T5 writes results beyond float16, for
# which transformers keeps these matrices in float32 too.
_OWN: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {("memvp-t5", "fp16"): {"encoder": _WO, "decoder": _WO}}


def module_of(weight: str) -> str:
    """The module of a weight: its official name without the last part, or all of a name that has no parts."""
    return weight.rsplit(".", 1)[0]


def is_kept(weight: str, patterns: Iterable[str]) -> bool:
    """Whether the module of a weight matches one of the patterns."""
    return any(fnmatchcase(module_of(weight), pattern) for pattern in patterns)


def own_patterns(family: str, component: str, precision: str) -> tuple[str, ...]:
    """The patterns of what a family's component keeps without being asked to."""
    return _OWN.get((family, precision), {}).get(component, ())


def patterns_of(
    family: str, weights: Mapping[str, Iterable[str]], patterns: Sequence[str], precision: str
) -> dict[str, tuple[str, ...]]:
    """For each component the family's own patterns, and in order those that match a module of it; weights are its
    weights' official names.

    Raises InputError for graphs that are not half, and for patterns that match nothing, with near names.
    """
    if patterns and precision not in HALF:
        why = "a float32 graph keeps everything" if precision == "fp32" else f"{precision} graphs are calibrated"
        raise InputError(f"--keep-fp32 goes with {' and '.join(HALF)}: {why}.")
    names = {component: [*weights[component]] for component in weights}
    found = {
        component: tuple(p for p in dict.fromkeys(patterns) if any(is_kept(weight, [p]) for weight in names[component]))
        for component in names
    }
    matched = {pattern for part in found.values() for pattern in part}
    for pattern in patterns:
        if pattern not in matched:
            modules = dict.fromkeys(module_of(weight) for part in names.values() for weight in part)
            near = get_close_matches(pattern, modules, _NEAR, 0.0)
            raise InputError(
                f"--keep-fp32 {pattern!r} matches no module of {', '.join(names)}; near it are {', '.join(near)}."
            )
    return {name: tuple(dict.fromkeys((*own_patterns(family, name, precision), *part))) for name, part in found.items()}
