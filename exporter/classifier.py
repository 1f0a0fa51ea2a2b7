"""Images and text -> a class or a score with the component `model` of a classifier (spec 4 and 5), over any Session."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .data import Answer, Request
from .encoder_tokenizer import EncoderTokenizer
from .errors import InputError
from .images import check_preprocessing, load_image, pixel_mask, preprocess
from .padding import padded
from .session import Arrays, Session, require_finite
from .settings import Settings
from .single_pass import single_passes

MODEL = "model"


class Classifier:
    """Answers requests with `model`: the most probable class, by its label or its number, or the score of a text and an
    image where that is the model's only output.

    Attributes: tokenizer; preprocessing; images, how many each request has; labels, or None; output, the port that is
    read; scores, whether that is a score; max_sequence, the longest text in tokens; max_batch; defaults.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: EncoderTokenizer,
        preprocessing: Mapping[str, Any],
        model: Mapping[str, Any],
        labels: Sequence[str] | None = None,
    ) -> None:
        """preprocessing, model (an entry of `components`) and labels are parts of the manifest. Raises InputError where
        they do not fit together."""
        check_preprocessing(preprocessing)
        self._session, self.tokenizer, self.preprocessing = session, tokenizer, preprocessing
        self._inputs = [port["name"] for port in model["inputs"]]
        self.images = sum(name.startswith("pixel_values") for name in self._inputs)
        self.labels, self.output = labels, str(model["outputs"][0]["name"])
        self.max_batch = int(model["ranges"]["batch"][1])
        self.max_sequence = min(tokenizer.maximum, int(model["ranges"]["sequence"][1]))
        self.defaults, self.scores = Settings(), gives_scores(model)
        classes = model["outputs"][0]["dims"][-1]
        if labels is not None and len(labels) != classes:
            raise InputError(f"the manifest has {len(labels)} labels, its model {classes} classes.")

    @classmethod
    def from_manifest(
        cls, session: Session, manifest: Mapping[str, Any], root: Path, precision: str | None = None
    ) -> "Classifier":
        """The pipeline of an opened bundle; precision is nothing to it."""
        tokenizer = EncoderTokenizer(root, manifest["tokenizer"])
        model = manifest["components"][MODEL]
        return cls(session, tokenizer, manifest["preprocessing"], model, manifest["labels"])

    def answer(self, requests: Iterable[Request], settings: Settings | None = None) -> list[Answer]:
        """Answers in the order of the requests: text is the label, ids the class. Raises InputError for unusable
        images, texts or settings, VerdictError where the model gives values that are not finite."""
        return [answer for batch in self.batches(requests, settings) for answer in batch]

    def batches(self, requests: Iterable[Request], settings: Settings | None = None) -> Iterator[list[Answer]]:
        """As `answer`, a batch at a time; requests are taken as they are needed."""
        for batch in single_passes(requests, settings or self.defaults, self.max_batch):
            outputs = self._session.run(MODEL, self.inputs(batch), [self.output])[self.output]
            require_finite(outputs, f"the model gave {self.output}")
            yield [self._answer(*each) for each in zip(batch, outputs, strict=True)]

    def score(self, requests: Iterable[Request], settings: Settings | None = None) -> list[Answer]:
        """Raises InputError: choices are for models that generate text."""
        raise InputError("this model has classes of its own: leave the choices out.")

    def check(self, request: Request) -> None:
        """Raise InputError for a request without the images that this model looks at."""
        self._paths(request)

    def inputs(self, requests: Sequence[Request]) -> Arrays:
        """What `model` takes for these requests: texts padded on the right, images with the mask of what they
        fill where the model takes one."""
        rows = [row for request in requests for row in self.texts(request)]
        made = padded(rows, self.max_sequence, self.tokenizer.pad)
        paths = [self._paths(request) for request in requests]
        # In retrieval, one image is asked about many texts: it is read once a batch.
        pictures = {path: load_image(path) for path in dict.fromkeys(chain(*paths))}
        pixels = {path: preprocess(picture, self.preprocessing) for path, picture in pictures.items()}
        for number, suffix in enumerate(("", "_2")[: self.images]):
            made[f"pixel_values{suffix}"] = np.stack([pixels[row[number]] for row in paths])
            if f"pixel_mask{suffix}" in self._inputs:
                masks = [pixel_mask(pictures[row[number]], self.preprocessing) for row in paths]
                made[f"pixel_mask{suffix}"] = np.stack(masks)
        return {name: made[name] for name in self._inputs}

    def texts(self, request: Request) -> list[list[int]]:
        """The ids of what the model reads of a request, not cut."""
        return [self.tokenizer.encode(request.text)]

    def text_room(self, settings: Settings) -> int:
        """The longest text that is read whole, in tokens: nothing is written after it."""
        return self.max_sequence

    def _paths(self, request: Request) -> list[Path]:
        paths = [path for path in (request.image, request.image_2) if path is not None]
        if len(paths) != self.images:
            raise InputError(f"the request {request.id!r} has {len(paths)} images; this model looks at {self.images}.")
        return paths

    def _answer(self, request: Request, outputs: np.ndarray) -> Answer:
        truncated = any(len(row) > self.max_sequence for row in self.texts(request))
        if self.scores:
            # The shortest decimal that is this float32: rankings need all of it.
            return Answer(request.id, str(outputs[0]), (), None, truncated)
        best = int(outputs.argmax())
        return Answer(request.id, self.labels[best] if self.labels else str(best), (best,), None, truncated)


def gives_scores(model: Mapping[str, Any]) -> bool:
    """Whether `model`, an entry of `components`, gives the score of a text and an image and not classes."""
    return bool(model["outputs"][0]["dims"][-1] == 1)
