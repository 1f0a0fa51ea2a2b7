"""Pictures small enough to lie inside a page, as data URIs."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from ..errors import ToolError
from ..images import load_image


@dataclass(frozen=True)
class Thumbnail:
    """A picture inside a page: its data URI and its size in pixels."""

    uri: str
    width: int
    height: int


def thumbnail(path: Path, side: int) -> Thumbnail | None:
    """The image file as a picture of at most side x side pixels; None where it cannot be read."""
    try:
        image = load_image(path)
    except ToolError:
        return None
    image.thumbnail((side, side))
    files = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 85})):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files.append((kind, buffer.getvalue()))
    kind, content = min(files, key=lambda file: len(file[1]))
    return Thumbnail(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", *image.size)
