"""What a file holds against what the model needs, answered in one message."""

from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from ..errors import InputError
from .lazy import LazyTensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
LISTED = 12
Shape = Callable[[str, int], tuple[int, ...]]


def match(
    found: Mapping[str, LazyTensor],
    expected: Mapping[str, tuple[int, ...]],
    where: str,
    ignored: Sequence[str] = (),
) -> dict[str, LazyTensor]:
    """The expected tensors, in the order of `expected`.

    Names in `found` that fit a glob pattern of `ignored` may be there or not. InputError names every missing, extra
    and wrongly shaped tensor, and every one that is not fp32, fp16 or bf16.
    """
    there = [name for name in expected if name in found]
    extra = [n for n in found if n not in expected and not any(fnmatchcase(n, pattern) for pattern in ignored)]
    problems = {
        "missing": [name for name in expected if name not in found],
        "not expected": extra,
        "wrong shape": [
            f"{name} is {list(found[name].shape)}, needs {list(expected[name])}"
            for name in there
            if found[name].shape != tuple(expected[name])
        ],
        "wrong type": [
            f"{name} is {found[name].dtype}, needs float32, float16 or bfloat16"
            for name in there
            if found[name].dtype not in FLOATS
        ],
    }
    if any(problems.values()):
        lines = [f"  {kind} ({len(names)}): {some(names)}" for kind, names in problems.items() if names]
        raise InputError("\n".join([f"{where} does not hold the tensors of this model:", *lines]))
    return {name: found[name] for name in expected}


def shapes_in(found: Mapping[str, LazyTensor], path: Path, model: str) -> Shape:
    """The shape of a tensor by its name and how many dimensions it must have; InputError where it is not that."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in found:
            raise InputError(f"{path} is of no {model}: it lacks {name}; it has {some(sorted(found)[:3])}.")
        if len(found[name].shape) != rank or not all(found[name].shape):
            raise InputError(f"{path}: {name} is {list(found[name].shape)}, which has not {rank} dimensions.")
        return found[name].shape

    return shape


def require_pieces(pieces: int, tokenizer: Path, vocab: int, model: Path, fewer: bool = False) -> None:
    """InputError for a tokenizer with other ids than those that the model embeds; fewer: it may have less of them."""
    if pieces > vocab or (pieces < vocab and not fewer):
        raise InputError(
            f"{tokenizer} has {pieces} pieces, the model in {model} embeds {vocab}: they do not belong together."
        )


def count_numbered(names: Collection[str], prefix: str) -> int:
    """How many numbered parts `<prefix>N.` there are: one more than the highest N.

    A number that the names cannot reach without gaps is left out: it would make `expected` grow without end.
    """
    numbers = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    found = (int(number) for number in numbers if number.isdecimal() and len(number) < 10)
    return max((number + 1 for number in found if number < len(names)), default=0)


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest
