"""What pipelines that write text share: requests in batches, one look at one image each, and the answer's end."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from .data import LETTERS, Answer, Request
from .encoder_tokenizer import EncoderTokenizer
from .errors import InputError
from .images import image_array, image_shape
from .settings import DEFAULT_BATCH, Settings
from .tokenization import Tokenizer


class TextPipeline(ABC):
    """What pipelines that write text share: requests in batches, one look at one image each.

    Attributes: tokenizer, with `pieces`, `eos`, `pad` and `decode`; preprocessing; max_batch; defaults, the Settings
    used where none are given; scores, False: an answer is a text.
    """

    scores = False
    tokenizer: Tokenizer | EncoderTokenizer
    preprocessing: Mapping[str, Any]
    max_batch: int
    defaults: Settings

    def answer(self, requests: Iterable[Request], settings: Settings | None = None) -> list[Answer]:
        """Answers in the order of the requests. Raises InputError for unusable images, texts or settings, VerdictError
        where the model gives logits that are not finite."""
        return [answer for batch in self.batches(requests, settings) for answer in batch]

    def batches(self, requests: Iterable[Request], settings: Settings | None = None) -> Iterator[list[Answer]]:
        """As `answer`, a batch at a time; requests are taken as they are needed."""
        settings = settings or self.defaults
        size = settings.batch or max(1, min(DEFAULT_BATCH, self.max_batch // settings.beams))
        if size * settings.beams > self.max_batch:
            beams = f" with {settings.beams} beams each" if settings.beams > 1 else ""
            most = f"the decoder takes at most {self.max_batch} rows"
            if settings.beams > self.max_batch:
                most += (
                    f": give --beams {self.max_batch} or fewer, or take engines built with --max-batch {settings.beams}"
                )
            raise InputError(f"batch is {size}{beams}; {most}.")
        self._check_length(settings)
        source = iter(requests)
        while batch := list(islice(source, size)):
            yield self._answer_batch(batch, settings)

    def check(self, request: Request) -> None:
        """Raise InputError for a request that has more than this model looks at."""
        if request.image_2:
            raise InputError(f"the request {request.id!r} has two images; this model looks at one.")

    @abstractmethod
    def _check_length(self, settings: Settings) -> None:
        """InputError where so many new tokens cannot be generated."""

    @abstractmethod
    def _answer_batch(self, requests: Sequence[Request], settings: Settings) -> list[Answer]:
        """The answers to as many requests as the decoder takes at once."""

    def _looked_at(self, requests: Sequence[Request]) -> np.ndarray:
        """What the model takes of the requests' images, float32 [B,...]; rows without an image are zeros (spec 1.6)."""
        for request in requests:
            self.check(request)
        seen = np.zeros((len(requests), *image_shape(self.preprocessing)), np.float32)
        for row, request in enumerate(requests):
            if request.image is not None:
                try:
                    seen[row] = image_array(request.image, self.preprocessing)
                except InputError as error:
                    raise InputError(f"the request {request.id!r}: {error}") from error
        return seen

    def _finish(self, request: Request, ids: list[int], truncated: bool) -> Answer:
        ids = ids[: ids.index(self.tokenizer.eos)] if self.tokenizer.eos in ids else ids
        text = self.tokenizer.decode(ids)
        choice = choice_in(text, len(request.choices)) if request.choices else None
        return Answer(request.id, text, tuple(ids), choice, truncated)


def require_same_ids(decoder: Mapping[str, Any], tokenizer: Tokenizer | EncoderTokenizer) -> None:
    """Raise InputError where a tokenizer has more ids than `decoder`, an entry of `components`, gives logits of."""
    vocab = next(port["dims"][-1] for port in decoder["outputs"] if port["name"] == "logits")
    if isinstance(vocab, int) and vocab < tokenizer.pieces:
        raise InputError(
            f"the tokenizer has {tokenizer.pieces} pieces, the decoder {vocab}: they do not belong together."
        )


def choice_in(text: str, choices: int) -> int:
    """The index of the first letter A to Z in an answer, -1 where it is none of the first `choices` (spec 1.6)."""
    found = re.search("[A-Z]", text)
    index = LETTERS.index(found[0]) if found else -1
    return index if index < choices else -1
