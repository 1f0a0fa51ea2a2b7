"""The samples a bundle carries: requests, the reference's answers to them, and golden tensors of each graph."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Bundle, BundleWriter
from ..data import Answer, Request, read_requests
from ..errors import InputError
from ..images import image_array
from ..npz import read_npz
from ..pipelines import AnyPipeline
from ..session import Session
from .batches import InBatches, limits_of
from .golden import Case, from_arrays, record_golden, to_arrays
from .recording import record_answers
from .sample_requests import bundled_requests, needs_of

if TYPE_CHECKING:
    from ..models.component import Component

TENSORS = "samples/golden.npz"
REQUESTS = "samples/requests.jsonl"
ANSWERS = "samples/answers.jsonl"


def write_samples(
    session: Session,
    components: Sequence["Component"],
    pipeline: AnyPipeline,
    requests: Sequence[Request],
    writer: BundleWriter,
) -> dict[str, str]:
    """Record golden tensors and answers of `session`, the float32 reference, and write them into the bundle.

    requests come from `bundled_requests`. Returns the manifest's entry.
    """
    needs = needs_of(components, None)
    with_image = [request for request in requests if request.image] or bundled_requests(None, writer, needs)[:2]
    pixels = [image_array(request.image, pipeline.preprocessing) for request in with_image if request.image]
    ids = [row for request in requests for row in pipeline.texts(request)]
    answers = pipeline.answer(requests)
    # How firmly each token was chosen: where a check finds another one, that says whether it may.
    batched = InBatches(session, limits_of(components))
    _, margins = record_answers(batched, components, pipeline, requests, answers, pipeline.defaults)
    write_lines(writer.path(REQUESTS), [line_of(request, writer.root / "samples") for request in requests])
    write_lines(
        writer.path(ANSWERS),
        [
            {"id": answer.id, "text": answer.text, "ids": list(answer.ids), "margins": list(leads)}
            for answer, leads in zip(answers, margins, strict=True)
        ],
    )
    # Last: the recorded caches of a large model are best not held while anything else runs.
    with writer.path(TENSORS).open("wb") as file:
        np.savez(file, **to_arrays(record_golden(session, components, pixels, ids)))  # type: ignore[arg-type]
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
    """The bundle's own questions beside the reference's answers. Raises InputError for a question whose image is no
    file of the bundle, or that has no answer."""
    recorded = bundle.manifest["samples"]
    if not recorded:
        return []
    answers = {answer.id: answer for answer, _ in _recorded_answers(bundle)}
    requests = [_own(bundle, request) for request in read_requests(bundle.path(recorded["requests"]))]
    if missing := [request.id for request in requests if request.id not in answers]:
        raise InputError(f"{bundle.root} is edited: {recorded['answers']} has no answer to {missing[0]!r}.")
    return [(request, answers[request.id]) for request in requests]


def read_margins(bundle: Bundle) -> dict[str, tuple[float, ...]]:
    """How firmly the reference chose each token of its answers, by the request's id: see `recording.record_answers`.
    Older bundles have none."""
    return {answer.id: margins for answer, margins in _recorded_answers(bundle)} if bundle.manifest["samples"] else {}


def _recorded_answers(bundle: Bundle) -> Iterator[tuple[Answer, tuple[float, ...]]]:
    """Lines as `data.read_answers` takes them, with the margins besides."""
    path = bundle.path(bundle.manifest["samples"]["answers"])
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            data = json.loads(line)
            margins = tuple(map(float, data.pop("margins", ())))
            yield Answer(**{**data, "ids": tuple(map(int, data["ids"]))}), margins
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}:{number}: the line is no recorded answer ({error}).") from error


def _own(bundle: Bundle, request: Request) -> Request:
    """The request with images that are files of the bundle: a report shows them to whoever it is sent to."""
    return replace(request, image=_own_file(bundle, request.image), image_2=_own_file(bundle, request.image_2))


def _own_file(bundle: Bundle, image: Path | None) -> Path | None:
    if image is None:
        return None
    name = image.relative_to(bundle.root).as_posix() if image.is_relative_to(bundle.root) else str(image)
    if name not in bundle.manifest["files"]:
        raise InputError(
            f"{bundle.root} is refused: {bundle.manifest['samples']['requests']} names the image {image}, which is no "
            "file of the bundle."
        )
    return bundle.path(name)


def line_of(request: Request, folder: Path) -> dict[str, Any]:
    """A request as `data.read_requests` takes it from a file in `folder`."""
    line: dict[str, Any] = {"id": request.id, "text": request.text}
    if request.image:
        line["image"] = request.image.relative_to(folder).as_posix()
    if request.image_2:
        line["image_2"] = request.image_2.relative_to(folder).as_posix()
    if request.choices:
        line["choices"] = list(request.choices)
    if request.answer is not None:
        line["answer"] = request.answer
    return line


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSONL file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
