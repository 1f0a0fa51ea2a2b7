"""An image -> the label whose text lies nearest, with `image_encoder` and `text_encoder` (spec 6), over any Session."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .data import Answer, Request
from .encoder_tokenizer import EncoderTokenizer
from .errors import InputError
from .images import check_preprocessing, load_image, preprocess
from .padding import padded
from .session import Arrays, Session, require_finite
from .settings import Settings
from .single_pass import single_passes

IMAGE, TEXT = "image_encoder", "text_encoder"
SLOT = "{}"
TOP = 5
# Rows of labels that are kept: at CLIP's 512 to 1,024 numbers, 32 to 64 MiB.
_KEPT = 1 << 14


class LabelMatcher:
    """Answers requests by `exp(logit_scale) image_embeds text_embeds^T` over a set of labels: the request's choices, or
    the pipeline's own labels. Each label is read within a template, the request's text or the pipeline's own.

    Attributes: tokenizer; preprocessing; labels, or None; template; max_sequence, the longest text in tokens;
    max_batch, of images; defaults; scores, False: an answer is a label.
    """

    scores = False

    def __init__(
        self,
        session: Session,
        tokenizer: EncoderTokenizer,
        preprocessing: Mapping[str, Any],
        components: Mapping[str, Any],
        similarity: Mapping[str, Any],
        labels: Sequence[str] | None = None,
    ) -> None:
        """All but the session are parts of the manifest. Raises InputError where they do not fit together."""
        check_preprocessing(preprocessing)
        self._session, self.tokenizer, self.preprocessing = session, tokenizer, preprocessing
        self.factor, self.template = factor_of(similarity["logit_scale"]), str(similarity["template"])
        check_template(self.template)
        self.labels = list(labels) if labels is not None else None
        self.defaults = Settings()
        self.max_batch = int(components[IMAGE]["ranges"]["batch"][1])
        self._rows = int(components[TEXT]["ranges"]["batch"][1])
        self.max_sequence = min(tokenizer.maximum, int(components[TEXT]["ranges"]["sequence"][1]))
        self._known: dict[str, np.ndarray] = {}
        self._cut: set[str] = set()

    @classmethod
    def from_manifest(
        cls, session: Session, manifest: Mapping[str, Any], root: Path, precision: str | None = None
    ) -> "LabelMatcher":
        """The pipeline of an opened bundle; precision is nothing to it."""
        tokenizer = EncoderTokenizer(root, manifest["tokenizer"])
        similarity = manifest.get("similarity")
        if not isinstance(similarity, dict) or not {"logit_scale", "template"} <= similarity.keys():
            raise InputError("the manifest lacks similarity, with logit_scale and template: export the bundle again.")
        parts = manifest["preprocessing"], manifest["components"], similarity, manifest["labels"]
        return cls(session, tokenizer, *parts)

    def answer(self, requests: Iterable[Request], settings: Settings | None = None) -> list[Answer]:
        """Answers in the order of the requests: text is the label, ids its number, top the most probable labels. Raises
        InputError for unusable images, labels or settings, VerdictError where the model gives values that are not
        finite."""
        return [answer for batch in self.batches(requests, settings) for answer in batch]

    def batches(self, requests: Iterable[Request], settings: Settings | None = None) -> Iterator[list[Answer]]:
        """As `answer`, a batch at a time; requests are taken as they are needed."""
        for batch in single_passes(requests, settings or self.defaults, self.max_batch):
            logits = self.logits(batch, self.image_points(batch))
            yield [self._answer(*each) for each in zip(batch, logits, strict=True)]
            self._forget()

    score = answer

    def check(self, request: Request) -> None:
        """Raise InputError for a request without its image, or whose labels or template are none."""
        self._path(request)
        self.prompts(request)

    def logits(self, requests: Sequence[Request], image_embeds: np.ndarray) -> list[np.ndarray]:
        """For each request `exp(logit_scale) image_embeds text_embeds^T` over its labels, float32 [labels]."""
        prompts = [self.prompts(request) for request in requests]
        self._embed([prompt for row in prompts for prompt in row])
        # Requests that share their labels share the product's right side.
        tables: dict[tuple[str, ...], np.ndarray] = {}
        for row in prompts:
            if row not in tables:
                tables[row] = np.stack([self._known[prompt] for prompt in row])
        return [self.factor * (tables[row] @ image) for row, image in zip(prompts, image_embeds, strict=True)]

    def labels_of(self, request: Request) -> Sequence[str]:
        """What the request's image is compared with. Raises InputError where nothing is named, or one label blank or
        twice."""
        labels = request.choices or self.labels
        if not labels:
            raise InputError(
                f"the request {request.id!r} names no labels, and the bundle has none: give --labels, or choices."
            )
        if request.choices and (len({*request.choices}) < len(request.choices) or not all(map(str.strip, labels))):
            raise InputError(f"the request {request.id!r} has a choice that is blank, or there twice.")
        return labels

    def prompts(self, request: Request) -> tuple[str, ...]:
        """Each label within the template. Raises InputError for a request whose text is none."""
        if request.text:
            check_template(request.text, f"the request {request.id!r}: ")
        return tuple((request.text or self.template).replace(SLOT, label) for label in self.labels_of(request))

    def texts(self, request: Request) -> list[list[int]]:
        """The ids of what the model reads of a request, not cut."""
        return [self.tokenizer.encode(prompt) for prompt in self.prompts(request)]

    def text_room(self, settings: Settings) -> int:
        """The longest text that is read whole, in tokens: nothing is written after it."""
        return self.max_sequence

    def inputs(self, requests: Sequence[Request]) -> Arrays:
        """What `image_encoder` takes for these requests."""
        paths = [self._path(request) for request in requests]
        pixels = {path: preprocess(load_image(path), self.preprocessing) for path in dict.fromkeys(paths)}
        return {"pixel_values": np.stack([pixels[path] for path in paths])}

    def image_points(self, requests: Sequence[Request]) -> np.ndarray:
        """The images' points, float32 [requests,e]."""
        return self._run(IMAGE, self.inputs(requests), "image_embeds")

    def text_points(self, requests: Sequence[Request]) -> tuple[Arrays, list[np.ndarray]]:
        """What `text_encoder` takes for the labels of these requests, each prompt once, and what it gives for each."""
        prompts = sorted({prompt for request in requests for prompt in self.prompts(request)})
        self._embed(prompts)
        inputs = self._padded([self.tokenizer.encode(prompt) for prompt in prompts])
        return inputs, [self._known[prompt] for prompt in prompts]

    def _embed(self, prompts: Sequence[str]) -> None:
        """Have the points of these prompts at hand."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        for at in range(0, len(new), self._rows):
            part = new[at : at + self._rows]
            rows = [self.tokenizer.encode(prompt) for prompt in part]
            self._known |= zip(part, self._run(TEXT, self._padded(rows), "text_embeds"), strict=True)
            self._cut |= {prompt for prompt, row in zip(part, rows, strict=True) if len(row) > self.max_sequence}

    def _padded(self, rows: Sequence[Sequence[int]]) -> Arrays:
        return padded(rows, self.max_sequence, self.tokenizer.pad)

    def _forget(self) -> None:
        """Every request may name labels that no other has."""
        if len(self._known) > max(_KEPT, len(self.labels or ())):
            self._known.clear()
            self._cut.clear()

    def _run(self, component: str, inputs: Arrays, output: str) -> np.ndarray:
        return require_finite(self._session.run(component, inputs, [output])[output], f"the model gave {output}")

    def _path(self, request: Request) -> Path:
        if request.image is None or request.image_2 is not None:
            count = sum(path is not None for path in (request.image, request.image_2))
            raise InputError(f"the request {request.id!r} has {count} images; this model looks at 1.")
        return request.image

    def _answer(self, request: Request, logits: np.ndarray) -> Answer:
        labels, best = self.labels_of(request), int(logits.argmax())
        shares = np.exp(logits.astype(np.float64) - logits.max())
        shares /= shares.sum()
        top = tuple((labels[index], float(shares[index])) for index in np.argsort(-shares, kind="stable")[:TOP])
        truncated = not self._cut.isdisjoint(self.prompts(request))
        return Answer(request.id, labels[best], (best,), best if request.choices else None, truncated, top)


def check_template(template: str, where: str = "") -> None:
    """Raise InputError, which begins with `where`, unless a label has one place in the template."""
    if template.count(SLOT) != 1:
        raise InputError(f"{where}the template {template!r} must have one {SLOT}, where the label goes.")


def factor_of(logit_scale: Any, name: str = "logit_scale") -> np.float32:
    """`exp(logit_scale)`. Raises InputError, with its `name`, where that is no number to work with."""
    number = isinstance(logit_scale, int | float) and not isinstance(logit_scale, bool)
    if not number or not abs(logit_scale) < math.log(1e30):
        raise InputError(f"{name} is {logit_scale!r}, which is no factor's logarithm.")
    return np.float32(math.exp(logit_scale))
