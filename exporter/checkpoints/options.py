"""The families that exist, and what the source of each may say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True)
class Option:
    """A family option: its default (whose type is its type) and the range of a number, ends included."""

    default: Any
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Family:
    """What a source of this family consists of. The first task is the default; no tasks: not supported yet."""

    tasks: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    options: Mapping[str, Option] | None = None


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
    "memvp-bart": Family(),
    "memvp-t5": Family(),
    "apt-vilt": Family(),
    "apt-meter": Family(),
    "apt-clip": Family(),
    "apt-stable-diffusion": Family(),
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
        if type(value) is not kind:
            problems.append(f"option {name} is {value!r}, needs {_description(option)}")
        elif kind is not str and not option.low <= value <= option.high:
            problems.append(f"option {name} is {value}, needs {_description(option)}")
        else:
            values[name] = value
    return values, sorted(problems)


def parsed(text: str, option: Option) -> Any:
    """The value of an option given as text on a command line; the text itself where it is no number."""
    kind = type(option.default)
    try:
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
    kind = {int: "an integer", float: "a number", str: "a text"}[type(option.default)]
    return kind if math.isinf(option.low) else f"{kind} from {option.low:g} to {option.high:g}"
