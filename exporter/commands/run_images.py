"""`memvp-export run` on a bundle that makes images: of one text, or of a file of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import console
from ..errors import InputError
from .run_lines import dry_run_is_done, warn_truncated

_SETTINGS = ("steps", "guidance", "negative_text", "seed", "height", "width")


def run_images(bundle: Path, flags: Mapping[str, Any], engine: Mapping[str, Any]) -> None:
    """Make the images and say which; engine holds what opens a session."""
    from ..make_images import image_requests, make_image, make_images
    from ..text_to_image import ImageSettings

    settings = ImageSettings(**{name: flags[name] for name in _SETTINGS if flags[name] is not None})
    data, output = flags["data"], flags["output"]
    if flags["dry_run"]:
        return dry_run_is_done(data, len(image_requests(data)), "no image was made", flags["as_json"])
    if output is None:
        raise InputError("this bundle makes images: give -o, a PNG file, or with --data a folder.")
    if data is None:
        made = make_image(bundle, flags["text"], output, settings, **engine)
        if made["truncated"]:
            warn_truncated()
        if flags["as_json"]:
            console.print_json(made)
        words = f"{made['width']} x {made['height']} pixels, {made['steps']} steps, seed {made['seed']}"
        return console.done(f"done: {output}, {words}")

    def told(facts: Sequence[Mapping[str, Any]]) -> None:
        for one in facts:
            if one["truncated"]:
                warn_truncated(one["id"])

    count = make_images(bundle, data, output, settings, flags["batch"], **engine, made=told)
    if flags["as_json"]:
        console.print_json({"output": str(output), "made": count})
    console.done(f"done: {count} images in {output}")
