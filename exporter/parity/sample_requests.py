"""The requests that a bundle's samples are made of: a file's, or drawn pictures and plain questions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..bundle import BundleWriter
from ..data import Request, read_requests, require_letters
from ..errors import InputError
from ..image_features import load_features
from ..images import load_image
from ..label_matcher import SLOT

if TYPE_CHECKING:
    from ..models.component import Component

LIMIT = 8
# What a request's image holds: features [L,f] are an array.
Picture = Image.Image | np.ndarray
_TEXTS = (
    "Question: What is shown in the picture?\nContext: N/A\nOptions: (A) a ring (B) a gradient\nResponse:The answer is",
    "Question: Which side is brighter?\nContext: N/A\nOptions: (A) left (B) right (C) neither\nResponse:The answer is",
    "Question: Which word comes first in the alphabet?\nContext: N/A\nOptions: (A) sea (B) sun\nResponse:The answer is",
)
_SHORT_TEXTS = ("What is shown in the picture?", "Which side is brighter?", "Is there a ring?")
_CAPTIONED = ("", *_SHORT_TEXTS[:2])
_TEMPLATES = ("", "a drawing of a {}.", "this is {}")
_PROMPTS = ("a red ring on a white table", "a drawing of a house by the sea", "two cats")
_LABELS = ("ring", "gradient from dark to bright", "photograph")


@dataclass(frozen=True)
class Needs:
    """What every request must have: images, 0 where the model can do without; with labels, a text that is a template
    around a label or empty, and with choices the labels themselves, where the bundle has none. prompts: the text is
    what an image is made of, and there must be no image. short: the text is a plain question, and its answer no letter.
    features: an image is a file of these, rows and width. captions: the text was empty in training."""

    images: int = 0
    labels: bool = False
    choices: bool = False
    prompts: bool = False
    short: bool = False
    features: tuple[int, int] | None = None
    captions: bool = False


def needs_of(components: Sequence["Component"], labels: Sequence[str] | None, task: str = "") -> Needs:
    """What a model's components need of a request; labels are the bundle's own, task the model's."""
    parts = [{port.name for port in component.inputs} for component in components]
    names = [name for part in parts for name in part]
    writes = "image_indicator" in names or "encoder_attention_mask" in names
    images = 0 if writes else sum(name.startswith("pixel_values") for name in names)
    # Where nothing reads the image and a text together, its point is compared with those of labels.
    apart = images > 0 and not any({"pixel_values", "input_ids"} <= part for part in parts)
    short = images > 0 or "encoder_attention_mask" in names
    ports = (port for component in components for port in component.inputs if port.name == "image_features")
    features = next(((int(port.dims[1]), int(port.dims[2])) for port in ports), None)
    return Needs(images, apart, apart and not labels, "timestep" in names, short, features, task == "caption")


def chosen_requests(samples: Path | None, needs: Needs | None = None) -> list[tuple[Request, list[Picture | None]]]:
    """The requests to record, with their pictures or features of them.

    samples is a JSONL file whose first LIMIT requests are used; None takes drawn pictures and plain questions. Raises
    InputError for a file that holds none, requests without what the model `needs` or with more images, more choices
    than letters where these are the answer, or images that cannot be read.
    """
    needs = needs or Needs()
    if samples is None:
        return _builtin(needs)
    requests = list(islice(read_requests(samples), LIMIT))
    _check(requests, samples, needs)
    width = needs.features[1] if needs.features else None
    return [(request, [_picture(path, width) for path in _paths(request)]) for request in requests]


def _check(requests: Sequence[Request], samples: Path, needs: Needs) -> None:
    """InputError for requests of the file `samples` that lack what the model needs, or have what it does not take."""
    needed = needs.images
    if not requests:
        raise InputError(f"{samples} holds no request.")
    if two := [request.id for request in requests if request.image_2 and needed < 2]:
        raise InputError(f"{samples}: the request {two[0]!r} has two images; this model looks at one.")
    if few := [request.id for request in requests if sum(map(bool, _paths(request))) < needed]:
        raise InputError(f"{samples}: the request {few[0]!r} lacks an image; this model needs {needed} of them.")
    if drawn := [request.id for request in requests if needs.prompts and request.image]:
        raise InputError(f"{samples}: the request {drawn[0]!r} has an image; this model makes one of its text.")
    if asked := [request.id for request in requests if needs.short and not needed and request.choices]:
        raise InputError(f"{samples}: the request {asked[0]!r} has choices; this model writes its answer.")
    for request in requests if not needs.labels else []:
        require_letters(request)
    if odd := [request.id for request in requests if needs.labels and request.text and request.text.count(SLOT) != 1]:
        raise InputError(f"{samples}: the text of the request {odd[0]!r} has not one {SLOT}, where the label goes.")
    if bare := [request.id for request in requests if needs.choices and not request.choices]:
        raise InputError(f"{samples}: the request {bare[0]!r} has no choices, and the source names no labels.")


def _picture(path: Path | None, width: int | None) -> Picture | None:
    """What is at a request's path: a picture, or features of this width."""
    if path is None or width is None:
        return load_image(path) if path else None
    return load_features(path, width)


def bundled_requests(samples: Path | None, writer: BundleWriter, needs: Needs | None = None) -> list[Request]:
    """The same with images that are copies inside the bundle, so that a check starts from the same pixels anywhere."""
    made = []
    for index, (request, pictures) in enumerate(chosen_requests(samples, needs)):
        images: list[Path | None] = [None, None]
        for number, picture in enumerate(pictures):
            if picture is not None:
                suffix = ".npy" if isinstance(picture, np.ndarray) else ".png"
                name = f"samples/images/{index}{'-2' if number else ''}{suffix}"
                images[number] = writer.path(name)
                if isinstance(picture, np.ndarray):
                    np.save(writer.path(name), picture)
                else:
                    picture.save(writer.path(name))
                writer.record(name)
        made.append(replace(request, image=images[0], image_2=images[1]))
    return made


def _paths(request: Request) -> tuple[Path | None, Path | None]:
    return request.image, request.image_2


def _builtin(needs: Needs) -> list[tuple[Request, list[Picture | None]]]:
    pictures: list[Picture | None] = [
        _ring(),
        _gradient(),
        _gradient().transpose(Image.Transpose.ROTATE_90) if needs.images else None,
    ]
    if needs.features:
        # No encoder is here that could look at a drawing.
        drawn = np.random.default_rng(len(pictures)).standard_normal((2, *needs.features))
        pictures = [*drawn.astype(np.float32), None]
    # All labels of a bundle are read for each template: one will do.
    templates = _TEMPLATES if needs.choices else [""] * 3
    short = _CAPTIONED if needs.captions else _SHORT_TEXTS
    texts = templates if needs.labels else short if needs.short else _TEXTS
    choices = _LABELS if needs.choices else None
    if needs.prompts:
        return [(Request(f"builtin-{i}", text), [None]) for i, text in enumerate(_PROMPTS)]
    return [
        (
            Request(f"builtin-{i}", text, choices=choices),
            [pictures[(i + number) % 3] for number in range(max(1, needs.images))],
        )
        for i, text in enumerate(texts)
    ]


def _ring() -> Image.Image:
    y, x = np.mgrid[0:150, 0:200]
    distance = np.hypot(x - 70, y - 60)
    pixels = np.stack([np.where((distance > 25) & (distance < 45), 230, 40), 90 + 0.5 * x, 200 - y], -1)
    return Image.fromarray(pixels.astype(np.uint8), "RGB")


def _gradient() -> Image.Image:
    y, x = np.mgrid[0:120, 0:90]
    return Image.fromarray(np.stack([2 * x, 2 * y, 255 - x - y], -1).astype(np.uint8), "RGB")
