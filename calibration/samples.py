"""The data a model is calibrated on, run the way it is used: requests through the pipeline with its preprocessing and
its generation, caches included; texts through the scheduler that makes images of them; or calls of components with
ready-made tensors."""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..exporter.bundle import Bundle, sha256_file
from ..exporter.data import Request
from ..exporter.datasets import open_dataset
from ..exporter.errors import InputError
from ..exporter.make_images import require_texts
from ..exporter.npz import read_npz
from ..exporter.parity.samples import read_samples
from ..exporter.pipelines import makes_images, pipeline_from
from ..exporter.session import Arrays, Session
from ..exporter.settings import Settings
from .each_component import EachComponent
from .image_samples import SETTINGS, TRIED, ImageSamples

DEFAULT_SAMPLES = 256
# An image is the work of many rows, and shows as many.
DEFAULT_IMAGES = 32
FEWEST = 8
BATCH = 8
_TRIED_IMAGES = 4

Call = tuple[str, Mapping[str, np.ndarray]]
Data = Path | str | Iterable[Request] | Iterable[Call] | None


class Play(Protocol):
    """Runs all but the first `skip` samples through a session, `batch` at a time where the model takes as many, and
    yields how many were done after every batch."""

    def __call__(self, session: Session, skip: int = 0, batch: int = BATCH) -> Iterator[int]:
        """See above."""
        ...


@dataclass(frozen=True)
class Trial:
    """What layers are judged by where recorded calls would not do, because what is between them carries errors on:
    outputs by name that `make` gives anew of the first so many samples. samples is how many of them are enough, share
    the work of one beside that of playing it."""

    make: Callable[[Session, int], Sequence[tuple[str, np.ndarray]]]
    samples: int
    share: float


@dataclass(frozen=True)
class Samples:
    """Samples in their order. digest identifies them, by content; requests are those that are answered; settings say
    how they are run, where that is a choice."""

    kind: str
    count: int
    digest: str
    play: Play
    requests: Sequence[Request] = ()
    trial: Trial | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def description(self) -> dict[str, Any]:
        """For scale files and reports."""
        return {"kind": self.kind, "samples": self.count, "sha256": self.digest, **self.settings}


def open_samples(bundle: Bundle, data: Data, count: int | None, seed: int) -> Samples:
    """At most `count` samples (None: DEFAULT_SAMPLES, or DEFAULT_IMAGES) of `data`, drawn by `seed`, in their order.

    data is a JSONL file, a ScienceQA folder, a folder of npz files (`<component>/*.npz`, arrays by input name), an
    iterable of requests or of (component, arrays), or None: the bundle's own questions. Raises InputError for data that
    is none of these, or has fewer than FEWEST samples (the bundle's own excepted); MissingPackage where images are to
    be made without diffusers.
    """
    if count is not None and count < 1:
        raise InputError(f"samples is {count}; it must be at least 1.")
    wanted = count or (DEFAULT_IMAGES if makes_images(bundle.manifest) else DEFAULT_SAMPLES)
    if data is None:
        requests = [request for request, _ in read_samples(bundle)]
        if not requests:
            raise InputError(f"{bundle.root} has no samples of its own: give --data with some that are like its use.")
        return _of_requests(bundle, "the bundle's own questions", requests, wanted, seed)
    if isinstance(data, Path | str):
        if Path(data).is_dir() and not (Path(data) / "problems.json").exists():
            return _of_files(Path(data), bundle, wanted, seed)
        dataset = open_dataset(data)
        settings = None if not dataset.single_pass else Settings(max_new_tokens=1)
        every = list(dataset.requests())
        _require(len(every), str(data))
        return _of_requests(bundle, Path(data).name, every, wanted, seed, settings)
    held = list(data)
    _require(len(held), "the iterable")
    if all(isinstance(one, Request) for one in held):
        return _of_requests(bundle, "requests", held, wanted, seed)  # type: ignore[arg-type]
    return _of_calls("arrays", _drawn(held, wanted, seed), _calls_digest(held), lambda call: call)


def _require(count: int, where: str) -> None:
    if count < FEWEST:
        raise InputError(f"{where} has {count} samples; calibration needs at least {FEWEST}, and better some hundred.")


def _drawn(every: Sequence[Any], wanted: int, seed: int) -> list[Any]:
    if len(every) <= wanted:
        return list(every)
    return [every[index] for index in sorted(random.Random(seed).sample(range(len(every)), wanted))]


def _of_requests(
    bundle: Bundle, kind: str, every: Sequence[Request], wanted: int, seed: int, settings: Settings | None = None
) -> Samples:
    # Those without an image come last: of a batch of both kinds, a memory's errors may not be seen to travel.
    requests = sorted(_drawn(every, wanted, seed), key=lambda request: request.image is None)
    if makes_images(bundle.manifest):
        return _of_texts(bundle, kind, requests, seed)

    # Nothing is run: what the model does not take is said before graphs are made.
    asked = pipeline_from(EachComponent({}), bundle.manifest, bundle.root, precision="fp32")
    for request in requests:
        asked.check(request)
    asked.inputs(requests[:1])

    def play(session: Session, skip: int = 0, batch: int = BATCH) -> Iterator[int]:
        pipeline = pipeline_from(session, bundle.manifest, bundle.root, precision="fp32")
        how = settings or pipeline.defaults
        done = skip
        for answers in pipeline.batches(requests[skip:], replace(how, batch=min(batch, pipeline.max_batch))):
            done += len(answers)
            yield done

    return Samples(kind, len(requests), _requests_digest(requests), play, requests)


def _of_texts(bundle: Bundle, kind: str, requests: Sequence[Request], seed: int) -> Samples:
    require_texts(requests, kind)
    images = ImageSamples(bundle, requests, seed)
    digest = hashlib.sha256(f"{_requests_digest(requests)} {images.settings()}".encode()).hexdigest()
    trial = Trial(images.make, min(_TRIED_IMAGES, len(requests)), TRIED.steps / SETTINGS.steps)
    return Samples(kind, len(requests), digest, images.play, trial=trial, settings=images.settings())


def _requests_digest(requests: Iterable[Request]) -> str:
    digest = hashlib.sha256()
    for one in requests:
        images = [sha256_file(image) for image in (one.image, one.image_2) if image]
        digest.update(json.dumps([one.text, images]).encode())
    return digest.hexdigest()


def _of_files(folder: Path, bundle: Bundle, wanted: int, seed: int) -> Samples:
    names = list(bundle.manifest["components"])
    found = [(name, path) for name in names for path in sorted((folder / name).glob("*.npz"))]
    if len(names) == 1:
        found += [(names[0], path) for path in sorted(folder.glob("*.npz"))]
    if not found:
        where = ", ".join(f"{name}/*.npz" for name in names)
        raise InputError(f"{folder} holds no calls of this bundle's components: there is neither of {where}.")
    _require(len(found), str(folder))
    drawn = _drawn(found, wanted, seed)
    digest = hashlib.sha256("".join(sha256_file(path) for _, path in drawn).encode()).hexdigest()
    return _of_calls(folder.name, drawn, digest, lambda one: (one[0], read_npz(one[1])))


def _of_calls(kind: str, every: Sequence[Any], digest: str, read: Callable[[Any], Call]) -> Samples:
    def play(session: Session, skip: int = 0, batch: int = BATCH) -> Iterator[int]:
        for done, one in enumerate(every[skip:], skip + 1):
            component, inputs = read(one)
            session.run(component, inputs)
            yield done

    return Samples(kind, len(every), digest, play)


def _calls_digest(calls: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for call in calls:
        if not (isinstance(call, tuple) and len(call) == 2 and isinstance(call[1], Mapping)):
            raise InputError("an iterable of calibration data gives Requests, or tuples (component, arrays by name).")
        arrays: Arrays = dict(call[1])
        for name in sorted(arrays):
            digest.update(f"{call[0]}/{name}/{arrays[name].dtype}/{arrays[name].shape}".encode())
            digest.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data)
    return digest.hexdigest()
