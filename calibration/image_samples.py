"""Texts as samples of a model that makes images: run through the scheduler with guidance, each from a noise of its own.

The U-Net is watched at the time steps that images are made in, from the whole of the noise to none of it.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ..exporter.bundle import Bundle
from ..exporter.data import Request
from ..exporter.parity.latents import GUIDANCE, STEPS
from ..exporter.scheduler import make_scheduler, read_scheduler
from ..exporter.session import Session
from ..exporter.text_to_image import ImageSettings, TextToImage

# The whole schedule in fewer steps than `run` takes: ranges change slowly along it.
SETTINGS = ImageSettings(steps=20)
# As `check` makes latents: with more steps and guidance, two images part that are equally good.
TRIED = ImageSettings(STEPS, GUIDANCE)


class ImageSamples:
    """Makes the images of requests, at the bundle's own size and one at a time: a row of a U-Net takes much memory."""

    def __init__(self, bundle: Bundle, requests: Sequence[Request], seed: int) -> None:
        """Raises InputError for a scheduler that cannot make the steps, MissingPackage without diffusers."""
        self._bundle, self._texts, self._seed = bundle, [request.text for request in requests], seed
        config = read_scheduler(bundle.path(bundle.manifest["scheduler"]))
        for settings in (SETTINGS, TRIED):
            make_scheduler(config, settings.steps)

    def settings(self) -> dict[str, Any]:
        """How the images are made, as JSON data."""
        size = {name: self._bundle.manifest["config"][name] for name in ("height", "width")}
        return {key: value for key, value in asdict(SETTINGS).items() if key in ("steps", "guidance")} | size

    def play(self, session: Session, skip: int = 0, batch: int = 1) -> Iterator[int]:
        """See samples.Play."""
        for done, _ in enumerate(self._images(session, SETTINGS, skip, len(self._texts)), skip + 1):
            yield done

    def make(self, session: Session, count: int) -> list[tuple[str, np.ndarray]]:
        """See samples.Trial: images float32 [1,3,H,W] of the first texts, in few steps."""
        return [("sample", image) for image in self._images(session, TRIED, 0, count)]

    def _images(self, session: Session, settings: ImageSettings, first: int, end: int) -> Iterator[np.ndarray]:
        pipeline = TextToImage.from_manifest(session, self._bundle.manifest, self._bundle.root)
        for number, text in enumerate(self._texts[first:end], first):
            # Not the same noise for all: what a U-Net sees is that, most of all.
            seed = random.Random(f"{self._seed} {number}").getrandbits(62)
            yield pipeline.decoded(pipeline.latents([text], replace(settings, seed=seed)))
