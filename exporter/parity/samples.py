"""The samples a bundle carries: texts and images, the reference's answers to them, and golden tensors of each graph."""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..bundle import Bundle, BundleWriter
from ..data import Answer, Request, read_requests
from ..errors import InputError
from ..images import load_image, preprocess
from ..pipeline import Pipeline
from ..run import read_npz
from ..session import Session
from .golden import Case, from_arrays, record_golden, to_arrays

TENSORS = "samples/golden.npz"
REQUESTS = "samples/requests.jsonl"
ANSWERS = "samples/answers.jsonl"
LIMIT = 8
_TEXTS = (
    "Question: What is shown in the picture?\nContext: N/A\nOptions: (A) a ring (B) a gradient\nResponse:The answer is",
    "Question: Which side is brighter?\nContext: N/A\nOptions: (A) left (B) right (C) neither\nResponse:The answer is",
    "Question: Which word comes first in the alphabet?\nContext: N/A\nOptions: (A) sea (B) sun\nResponse:The answer is",
)


def write_samples(
    session: Session, components: Sequence[Any], pipeline: Pipeline, requests: Sequence[Request], writer: BundleWriter
) -> dict[str, str]:
    """Record golden tensors and answers of `session`, the float32 reference, and write them into the bundle.

    requests come from `bundled_requests`. Returns the manifest's entry.
    """
    with_image = [request for request in requests if request.image] or bundled_requests(None, writer)[:2]
    pixels = [preprocess(load_image(request.image), pipeline.preprocessing) for request in with_image if request.image]
    ids = [pipeline.tokenizer.encode(request.text) for request in requests]
    with writer.path(TENSORS).open("wb") as file:
        np.savez(file, **to_arrays(record_golden(session, components, pixels, ids)))  # type: ignore[arg-type]
    answers = pipeline.answer(requests)
    _write_lines(writer.path(REQUESTS), [_line(request, writer.root / "samples") for request in requests])
    _write_lines(writer.path(ANSWERS), [{"id": a.id, "text": a.text, "ids": list(a.ids)} for a in answers])
    for name in (TENSORS, REQUESTS, ANSWERS):
        writer.record(name)
    return {"tensors": TENSORS, "requests": REQUESTS, "answers": ANSWERS}


def read_cases(bundle: Bundle) -> list[Case]:
    """The golden tensors of a bundle; empty where it was exported without."""
    recorded = bundle.manifest["samples"]
    if not recorded:
        return []
    return from_arrays(read_npz(bundle.path(recorded["tensors"])))


def read_samples(bundle: Bundle) -> list[tuple[Request, Answer]]:
    """The bundle's own questions beside the reference's answers."""
    recorded = bundle.manifest["samples"]
    if not recorded:
        return []
    lines = bundle.path(recorded["answers"]).read_text().splitlines()
    answers = {line["id"]: Answer(line["id"], line["text"], tuple(line["ids"])) for line in map(json.loads, lines)}
    return [(request, answers[request.id]) for request in read_requests(bundle.path(recorded["requests"]))]


def bundled_requests(samples: Path | None, writer: BundleWriter) -> list[Request]:
    """Requests whose images are copies inside the bundle, so that a check starts from the same pixels anywhere.

    samples is a JSONL file whose first LIMIT requests are used; None takes drawn pictures and plain questions. Raises
    InputError for a file that holds none, or images that cannot be read.
    """
    if samples is None:
        pictures = [_ring(), _gradient(), None]
        chosen = [
            (Request(f"builtin-{i}", text), picture)
            for i, (text, picture) in enumerate(zip(_TEXTS, pictures, strict=True))
        ]
    else:
        requests = list(islice(read_requests(samples), LIMIT))
        if not requests:
            raise InputError(f"{samples} holds no request.")
        chosen = [(request, load_image(request.image) if request.image else None) for request in requests]
    made = []
    for index, (request, picture) in enumerate(chosen):
        image = None
        if picture is not None:
            name = f"samples/images/{index}.png"
            image = writer.path(name)
            picture.save(image)
            writer.record(name)
        made.append(Request(request.id, request.text, image, None, request.choices, request.answer))
    return made


def _line(request: Request, folder: Path) -> dict[str, Any]:
    line: dict[str, Any] = {"id": request.id, "text": request.text}
    if request.image:
        line["image"] = request.image.relative_to(folder).as_posix()
    if request.choices:
        line["choices"] = list(request.choices)
    if request.answer is not None:
        line["answer"] = request.answer
    return line


def _write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _ring() -> Image.Image:
    y, x = np.mgrid[0:150, 0:200]
    distance = np.hypot(x - 70, y - 60)
    pixels = np.stack([np.where((distance > 25) & (distance < 45), 230, 40), 90 + 0.5 * x, 200 - y], -1)
    return Image.fromarray(pixels.astype(np.uint8), "RGB")


def _gradient() -> Image.Image:
    y, x = np.mgrid[0:120, 0:90]
    return Image.fromarray(np.stack([2 * x, 2 * y, 255 - x - y], -1).astype(np.uint8), "RGB")
