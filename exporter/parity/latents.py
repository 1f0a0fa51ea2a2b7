"""The whole way from a text to the latents of its image, beside the reference's: text encoder, U-Net, guidance, steps.

A few steps at the smallest size show it: every one of them goes through all of the model. What one call is off by, the
guidance and the steps make larger: latents may be off by LOOSER times what an output may be. A quantized precision is
judged by images of a data file, at the size that it was calibrated for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Bundle, BundleWriter
from ..data import Request
from ..datasets import Dataset
from ..errors import InputError, MissingPackage, VerdictError
from ..forms import fault
from ..npz import read_npz
from ..scheduler import make_scheduler, read_scheduler
from ..session import Session
from ..text_to_image import UNET, VAE_DECODER, ImageSettings, TextToImage
from .batches import InBatches, limits_of
from .compare import compare_output
from .golden import record_golden, to_arrays
from .image_points import sides
from .metrics import distance
from .quality import Quality
from .replay import Pair
from .report import Report
from .samples import ANSWERS, REQUESTS, TENSORS, line_of, read_samples, write_lines
from .thresholds import Threshold

if TYPE_CHECKING:
    from ..models.component import Component

LATENTS = "samples/latents.npz"
LOOSER = 10
STEPS = 3
GUIDANCE = 2.0
# How many images one line of a report is about.
_IMAGES = 8


def write_image_samples(
    session: Session,
    components: Sequence["Component"],
    manifest: Mapping[str, Any],
    requests: Sequence[Request],
    writer: BundleWriter,
) -> dict[str, Any]:
    """Record golden tensors and the last latents of `session`, the float32 reference, and write them into the bundle.

    requests come from `bundled_requests`; manifest is that of the bundle to be. Returns its entry `samples`, where
    `latents` has the file and the settings they were made with."""
    batched = InBatches(session, limits_of(components))
    pipeline = TextToImage.from_manifest(batched, manifest, writer.root)
    settings = _settings(pipeline, components)
    made: dict[str, np.ndarray] = {}
    for at in range(0, len(requests), pipeline.max_batch):
        part = requests[at : at + pipeline.max_batch]
        found = pipeline.latents([request.text for request in part], settings)
        made |= dict(zip((request.id for request in part), found, strict=True))
    write_lines(writer.path(REQUESTS), [line_of(request, writer.root / "samples") for request in requests])
    # An image is no text: what is compared are the latents.
    write_lines(writer.path(ANSWERS), [{"id": request.id, "text": "", "ids": []} for request in requests])
    ids = [row for request in requests for row in pipeline.texts(request)]
    golden = to_arrays(record_golden(session, components, [], ids))
    for name, arrays in ((LATENTS, made), (TENSORS, golden)):
        with writer.path(name).open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    for name in (TENSORS, REQUESTS, ANSWERS, LATENTS):
        writer.record(name)
    latents = {"file": LATENTS, "settings": asdict(settings)}
    return {"tensors": TENSORS, "requests": REQUESTS, "answers": ANSWERS, "latents": latents}


def _settings(pipeline: TextToImage, components: Sequence["Component"]) -> ImageSettings:
    unet = next(part for part in components if part.name == UNET)
    size = sides(unet, 1, 2)
    height, width = (size[name] * pipeline.unit for name in ("height", "width"))
    return ImageSettings(STEPS, GUIDANCE, height=height, width=width)


def compare_latents(report: Report, session: Session, manifest: Mapping[str, Any], bundle: Bundle, kind: str) -> None:
    """Make the bundle's own latents with `session`, which runs the components as `manifest` has them, and enter them
    into the report beside the recorded ones."""
    entry = (bundle.manifest["samples"] or {}).get("latents")
    if entry is None:
        return
    if wrong := fault(entry, {"file": str, "settings": dict}):
        raise InputError(f"{bundle.root} is edited: {wrong} in its samples' latents.")
    expected, settings = read_npz(bundle.path(entry["file"])), _recorded(entry, bundle.root)
    requests = [request for request, _ in read_samples(bundle)]
    if missing := [request.id for request in requests if request.id not in expected]:
        raise InputError(f"{bundle.root} is edited: {entry['file']} has no latents of {missing[0]!r}.")
    if len({expected[request.id].shape for request in requests}) != 1:
        raise InputError(f"{bundle.root} is edited: {entry['file']} has latents of several sizes.")
    try:
        whole = TextToImage.from_manifest(session, bundle.manifest, bundle.root)
        pipeline = TextToImage.from_manifest(session, manifest, bundle.root)
    except MissingPackage as missing:
        report.notes.append(f"latents were not made: {missing} The components were compared one by one")
        return
    # What the bundle itself does not take is an error; below, what an engine with other ranges does not take is a note.
    whole.size(settings)
    make_scheduler(read_scheduler(bundle.path(bundle.manifest["scheduler"])), settings.steps)
    wanted = np.stack([expected[request.id] for request in requests])
    _compare(report, pipeline, [request.text for request in requests], wanted, settings, kind, "golden")


def compare_image_data(
    report: Report,
    tested: Session,
    reference: Session,
    bundle: Bundle,
    manifest: Mapping[str, Any],
    dataset: Dataset,
    kind: str,
) -> None:
    """The same for every text of a data file, beside what `reference` makes of it now; see `_judge_images`."""
    answering = TextToImage.from_manifest(tested, manifest, bundle.root)
    expecting = TextToImage.from_manifest(reference, bundle.manifest, bundle.root)
    if report.threshold.quality:
        _judge_images(report, answering, expecting, dataset, kind)
        return
    entry = (bundle.manifest["samples"] or {}).get("latents")
    unit = answering.unit
    settings = _recorded(entry, bundle.root) if entry else ImageSettings(STEPS, GUIDANCE, height=unit, width=unit)
    requests, first = dataset.requests(), 1
    while taken := list(islice(requests, expecting.max_batch)):
        name = f"data, requests {first} to {first + len(taken) - 1}"
        first += len(taken)
        texts = [request.text for request in taken]
        _compare(report, answering, texts, expecting.latents(texts, settings), settings, kind, name)


def _judge_images(report: Report, answering: TextToImage, expecting: TextToImage, dataset: Dataset, kind: str) -> None:
    """Make the images of all texts with both, of the bundle's own size and each from a noise of its own, and enter them
    and the mean of their relative L2 into the report."""
    requests, errors = enumerate(dataset.requests()), []
    while taken := list(islice(requests, _IMAGES)):
        first, last = taken[0][0] + 1, taken[-1][0] + 1
        case = f"data, requests {first} to {last}, images in {STEPS} steps"
        made: list[list[np.ndarray]] = []
        for number, request in taken:
            settings = ImageSettings(STEPS, GUIDANCE, seed=number)
            try:
                made.append([each.decoded(each.latents([request.text], settings)) for each in (answering, expecting)])
            except VerdictError as error:
                report.failures.append(f"images ({case}): {error}")
                return
            except InputError as error:
                report.notes.append(f"images ({case}) were not made: {error}")
                return
        found, wanted = map(np.concatenate, zip(*made, strict=True))
        report.outputs.append(compare_output(Pair(VAE_DECODER, case, "image", found, wanted), kind, report.threshold))
        errors += [distance(*pair).relative_l2 for pair in zip(found, wanted, strict=True)]
    report.quality = Quality(len(errors), 0, None, None, None, None, float(np.mean(errors)))


def _recorded(entry: Mapping[str, Any], root: Path) -> ImageSettings:
    try:
        return ImageSettings(**entry["settings"])
    except (TypeError, KeyError) as error:
        raise InputError(f"{root} is edited: its samples have no settings of latents ({error}).") from error


def _compare(
    report: Report,
    pipeline: TextToImage,
    texts: Sequence[str],
    expected: np.ndarray,
    settings: ImageSettings,
    kind: str,
    name: str,
) -> None:
    case = f"{name}, the whole way in {settings.steps} steps"
    try:
        rows = range(0, len(texts), pipeline.max_batch)
        found = [pipeline.latents(texts[at : at + pipeline.max_batch], settings) for at in rows]
    except VerdictError as error:
        report.failures.append(f"latents ({case}): {error}")
        return
    except InputError as error:
        report.notes.append(f"latents ({case}) were not made: {error}")
        return
    pair = Pair(UNET, case, "latents", np.concatenate(found), expected)
    # The limits of quantized precisions are wide enough.
    limit = report.threshold if report.threshold.quality else _looser(report.threshold)
    report.outputs.append(compare_output(pair, kind, limit))


def _looser(limit: Threshold) -> Threshold:
    return replace(limit, relative_l2=LOOSER * limit.relative_l2, cosine=1 - LOOSER * (1 - limit.cosine))
