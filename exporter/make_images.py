"""Images of texts from a bundle, into PNG files: `run` on a bundle that makes images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

from PIL import Image

from .bundle import Bundle, opened
from .data import Request
from .datasets import open_dataset
from .errors import InputError
from .pipelines import makes_images
from .run import Opening, manifest_as_run, open_session
from .text_to_image import ImageSettings, TextToImage
from .whole_file import whole_file

_SUFFIX = ".png"
# File systems take 255 bytes, some of which the file has while it is written.
_LONGEST_NAME = 200


def make_image(
    bundle: Bundle | Path | str,
    text: str,
    output: Path | str,
    settings: ImageSettings | None = None,
    **how: Unpack[Opening],
) -> dict[str, Any]:
    """Make the image of a text and write it, whole or not at all, to the PNG file `output`.

    Returns what it was made with, as JSON data: file, text, truncated (it was too long and lost its end), and the
    settings, height and width among them. settings None: ImageSettings(). how: see `run.Opening`. Raises
    InputError for a bundle that makes none, an output that is no PNG file, or settings that the model does not take;
    MissingPackage without diffusers, VerdictError where values are not finite.
    """
    output = Path(output)
    _require_png(output)
    pipeline = _open(bundle, how)
    settings = _sized(pipeline, settings or ImageSettings())
    (pixels,) = pipeline.images([text], settings)
    _write(output, pixels)
    return {"file": str(output), "text": text, "truncated": pipeline.truncated(text), **asdict(settings)}


def make_images(
    bundle: Bundle | Path | str,
    data: Path | str,
    folder: Path | str,
    settings: ImageSettings | None = None,
    batch: int | None = None,
    *,
    made: Callable[[Sequence[dict[str, Any]]], None] = lambda facts: None,
    **how: Unpack[Opening],
) -> int:
    """The same for every request of `data`, into `<id>.png` below `folder`; returns how many were made.

    batch images are made at a time, one unless given; made is told of every batch. All start from the same seed.
    """
    requests = image_requests(data)
    if Path(folder).exists() and not Path(folder).is_dir():
        raise InputError(f"{folder} is a file; images of a data file go into a folder.")
    pipeline = _open(bundle, how)
    settings = _sized(pipeline, settings or ImageSettings())
    if batch is not None and not 1 <= batch <= pipeline.max_batch:
        raise InputError(f"batch is {batch}; the model makes 1 to {pipeline.max_batch} images at once.")
    for part in _parts(requests, batch or 1):
        images = pipeline.images([request.text for request in part], settings)
        facts = []
        for request, pixels in zip(part, images, strict=True):
            output = Path(folder) / f"{request.id}{_SUFFIX}"
            _write(output, pixels)
            facts.append({"id": request.id, "file": str(output), "truncated": pipeline.truncated(request.text)})
        made(facts)
    return len(requests)


def image_requests(data: Path | str) -> list[Request]:
    """The requests of a data file, whose ids are names of files and that have a text alone. InputError otherwise."""
    requests = list(open_dataset(data).requests())
    if wrong := [request.id for request in requests if not _is_name(request.id)]:
        raise InputError(f"{data}: the id {wrong[0]!r} is no name of a file: images are written to <id>{_SUFFIX}.")
    require_texts(requests, data)
    return requests


def require_texts(requests: Sequence[Request], where: Path | str) -> None:
    """Raise InputError for a request that has more than a text."""
    if drawn := [request.id for request in requests if request.image]:
        raise InputError(f"{where}: the request {drawn[0]!r} has an image; this model makes one of its text.")
    if asked := [request.id for request in requests if request.choices]:
        raise InputError(f"{where}: the request {asked[0]!r} has choices; this model makes an image of a text.")


def _open(bundle: Bundle | Path | str, how: Opening) -> TextToImage:
    bundle = opened(bundle)
    if not makes_images(bundle.manifest):
        raise InputError(f"{bundle.root} is of {bundle.manifest['family']}, which makes no images.")
    session = open_session(bundle, **how)
    return TextToImage.from_manifest(session, manifest_as_run(bundle, session), bundle.root)


def _sized(pipeline: TextToImage, settings: ImageSettings) -> ImageSettings:
    height, width = pipeline.size(settings)
    return replace(settings, height=height, width=width)


def _require_png(output: Path) -> None:
    if output.suffix.lower() != _SUFFIX:
        raise InputError(f"{output} is no name of a PNG file: images are written as such, give one that ends in .png.")


def _is_name(text: str) -> bool:
    short = len(text.encode()) <= _LONGEST_NAME
    return short and Path(text).name == text and text not in (".", "..") and not set(text) & {"\\", "\0"}


def _parts(requests: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    yield from (requests[at : at + size] for at in range(0, len(requests), size))


def _write(output: Path, pixels: Any) -> None:
    with whole_file(output) as file:
        Image.fromarray(pixels).save(file, "PNG")
