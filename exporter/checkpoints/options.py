"""The families that exist, and what the source of each may say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True)
class Option:
    """A family option: its default (whose type is its type) and the range of a number, ends included. A list holds as
    many integers as its default does."""

    default: Any
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Family:
    """What a source of this family consists of. The first task is the default; optional are files that may be left
    out."""

    tasks: tuple[str, ...]
    files: tuple[str, ...]
    options: Mapping[str, Option]
    optional: tuple[str, ...] = ()


# No paper or code of MemVP on BART and T5 says more: what is inferred is an option (spec 2.3).
_ENCODER_DECODER = Family(
    tasks=("vqa", "gqa", "caption"),
    files=("base", "adapter", "tokenizer"),
    optional=("vision",),
    options={
        "adapter_scale": Option(1.0, 0.0, 1e3),
        "visual_scale": Option(0.01, 0.0, 1e3),
        "clip_adapter_scale": Option(0.1, 0.0, 1e3),
        "memory_places": Option("both"),
        "visual_rows": Option(0, 0, 1 << 14),
        "text_length": Option(0, 0, 1 << 17),
        "max_sequence": Option(64, 8, 1 << 17),
        "max_batch": Option(16, 1, 1 << 12),
        "max_new_tokens": Option(0, 0, 1 << 17),
        "num_beams": Option(0, 0, 1 << 6),
        "text_prefix": Option("auto"),
    },
)

FAMILIES: dict[str, Family] = {
    "memvp-llama": Family(
        tasks=("vqa",),
        files=("base", "vision", "adapter", "tokenizer"),
        options={
            "adapter_scale": Option(0.1, 0.0, 1e3),
            "visual_scale": Option(0.01, 0.0, 1e3),
            "clip_adapter_scale": Option(0.1, 0.0, 1e3),
            "max_sequence": Option(512, 8, 1 << 17),
            "max_batch": Option(64, 1, 1 << 12),
            "max_new_tokens": Option(1, 1, 1 << 17),
            "text_prefix": Option(""),
        },
    ),
    "memvp-bart": _ENCODER_DECODER,
    "memvp-t5": _ENCODER_DECODER,
    "apt-vilt": Family(
        tasks=("vqa", "nlvr2", "irtr"),
        files=("checkpoint", "tokenizer"),
        optional=("labels",),
        options={
            # What the paper's resizing makes of any picture, upright or not, fits into it.
            "image_size": Option([608, 608], 1, 1 << 13),
            "shorter_side": Option(0, 0, 1 << 13),
            "text_prefix": Option("Does the images satisfy the description:"),
            "heads": Option(0, 0, 1 << 10),
            "max_batch": Option(64, 1, 1 << 12),
        },
    ),
    "apt-meter": Family(
        tasks=("vqa", "nlvr2", "irtr"),
        files=("checkpoint", "tokenizer"),
        optional=("labels",),
        options={
            "image_size": Option(0, 0, 1 << 13),
            "text_length": Option(0, 0, 1 << 13),
            "heads": Option(0, 0, 1 << 10),
            "max_batch": Option(64, 1, 1 << 12),
        },
    ),
    "apt-clip": Family(
        tasks=("labels",),
        files=("base", "checkpoint", "tokenizer"),
        optional=("labels",),
        options={
            "template": Option("a photo of a {}."),
            "max_batch": Option(64, 1, 1 << 12),
        },
    ),
    "apt-stable-diffusion": Family(
        tasks=("text-to-image",),
        files=("base", "checkpoint"),
        options={
            "image_size": Option([0, 0], 0, 1 << 13),
            "max_image_side": Option(0, 0, 1 << 13),
            "max_batch": Option(16, 1, 1 << 12),
        },
    ),
}


def checked_options(given: Mapping[str, Any], options: Mapping[str, Option]) -> tuple[dict[str, Any], list[str]]:
    """The values of all options, defaults included, and what is wrong with the given ones."""
    values: dict[str, Any] = {name: option.default for name, option in options.items()}
    problems = unknown("option", given, options)
    for name in given.keys() & options.keys():
        option, value = options[name], given[name]
        kind = type(option.default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or not all(_in_range(part, option) for part in _numbers(value, option)):
            problems.append(f"option {name} is {value!r}, needs {_description(option)}")
        else:
            values[name] = value
    return values, sorted(problems)


def _numbers(value: Any, option: Option) -> list[Any]:
    """The numbers of a value of the option's own type; a list of another length has one that is in no range."""
    if isinstance(value, list):
        return value if len(value) == len(option.default) else [math.nan]
    return [] if isinstance(value, str) else [value]


def _in_range(number: Any, option: Option) -> bool:
    whole = isinstance(option.default, list)
    return (type(number) is int or (type(number) is float and not whole)) and option.low <= number <= option.high


def parsed(text: str, option: Option) -> Any:
    """The value of an option given as text on a command line, a list as 384x512; the text itself where it is none."""
    kind = type(option.default)
    try:
        if kind is list:
            return [int(part) for part in text.split("x")]
        return text if kind is str else kind(text)
    except ValueError:
        return text


def unknown(kind: str, names: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...]) -> list[str]:
    """A message for every name that is not known, with the nearest one that is."""
    return [f"unknown {kind} {name!r}{nearest(name, known)}" for name in names if name not in known]


def nearest(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """` (did you mean 'x'?)`, or the list of what is known where nothing is near."""
    close = get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"


def _description(option: Option) -> str:
    if isinstance(option.default, list):
        kind = f"{len(option.default)} integers, such as {option.default}, each"
    else:
        kind = {int: "an integer", float: "a number", str: "a text"}[type(option.default)]
    return kind if math.isinf(option.low) else f"{kind} from {option.low:g} to {option.high:g}"
