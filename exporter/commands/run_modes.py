"""Which way of `memvp-export run` is asked for, and which options go with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError

_GENERATION = {"max_new_tokens", "beams", "temperature", "top_p", "seed"}
_IMAGE = {"negative_text", "steps", "guidance", "height", "width"}
_ALWAYS = {"backend", "precision", "trust_bundle", "lowering", "as_json"}
_MODES = {
    "text": {"image", "image_2", "choices", "hint", "labels", "output", *_GENERATION, *_IMAGE},
    "data": {"output", "no_resume", "dry_run", "batch", "labels", *_GENERATION, *_IMAGE},
    "component": {"inputs", "save_outputs"},
}
_OF_IMAGES = {"text", "data", "output", "batch", "seed", "dry_run", *_IMAGE, *_ALWAYS}


def mode_of(flags: Mapping[str, Any], given: Sequence[str]) -> str:
    """Which of "text", "data" and "component" is asked for; given are the names of the flags that are there. InputError
    where it is none or several, or where a flag would do nothing."""
    # A picture alone is compared with labels.
    modes = [mode for mode in _MODES if flags[mode] is not None] or ["text"] * (flags["image"] is not None)
    if len(modes) != 1:
        raise InputError("give one of --text, --data and --component.")
    (mode,) = modes
    for name in given:
        if name not in _MODES[mode] | _ALWAYS | {mode}:
            raise InputError(f"{_flag(name)} does not go with --{mode}.")
        if flags["choices"] and name in _GENERATION:
            raise InputError(f"{_flag(name)} does not go with --choices: one token is scored.")
    if flags["hint"] and not flags["choices"]:
        raise InputError("--hint goes with --choices.")
    return mode


def makes_images(path: Path, mode: str, flags: Mapping[str, Any], given: Sequence[str]) -> bool:
    """Whether the bundle makes images. InputError for flags of the other kind of bundles, and for those of drawing
    where the most probable tokens are taken."""
    from .. import pipelines
    from ..bundle import Bundle

    makes = pipelines.makes_images(Bundle.open(path).manifest)
    for name in given:
        if makes and name not in _OF_IMAGES:
            raise InputError(f"{_flag(name)} does not go with a bundle that makes images.")
        if not makes and (name in _IMAGE or (mode, name) == ("text", "output")):
            raise InputError(f"{_flag(name)} does not go with --{mode}: it is for bundles that make images.")
        if not makes and name in ("top_p", "seed") and not flags["temperature"]:
            raise InputError(f"{_flag(name)} does not go with a temperature of 0: nothing is drawn.")
    return makes


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
