"""Image and text -> answer with MemVP-LLaMA, as the paper's generate() does it (spec 1.5), over any Session."""

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .data import LETTERS, Answer, Request, require_letters
from .encoder_tokenizer import EncoderTokenizer
from .errors import InputError
from .images import check_preprocessing, image_array, image_shape
from .kv_cache import KVCache, pieces
from .session import Arrays, Session, require_finite
from .tokenization import Tokenizer

DEFAULT_BATCH = 8


@dataclass(frozen=True)
class Settings:
    """How answers are generated. temperature 0 takes the most probable token; above it, tokens are drawn among the
    most probable ones that hold `top_p` of the probability. beams above 1: the most probable answer that so many beams
    find, of models that were trained so. batch None: what the graph takes, at most DEFAULT_BATCH.

    The random stream of a row follows from seed and its request's id: batches and their order do not matter.
    """

    max_new_tokens: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch: int | None = None
    beams: int = 1

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        for name, good, wanted in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("seed", self.seed >= 0, "0 or more"),
            ("batch", self.batch is None or self.batch >= 1, "at least 1"),
            ("beams", self.beams >= 1, "at least 1"),
            ("temperature", self.temperature == 0 or self.beams == 1, "0 with beams"),
        ):
            if not good:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {wanted}.")

    def digest_data(self) -> dict[str, Any]:
        """What moves the answers, for AnswerFile; the batch does not."""
        return {name: value for name, value in vars(self).items() if name != "batch"}


def beams_of(manifest: Mapping[str, Any]) -> int:
    """The beams that a bundle's model is used with. Evidence is made without: its tokens can be compared one by one."""
    return int((manifest["generation"] or {}).get("num_beams", 1))


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


class Pipeline(TextPipeline):
    """Answers requests with the components `vision` and `decoder` of a session.

    Attributes: those of `TextPipeline`; max_sequence, the columns of prompt and answer together.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        preprocessing: Mapping[str, Any],
        decoder: Mapping[str, Any],
        precision: str = "fp32",
        defaults: Settings | None = None,
    ) -> None:
        """preprocessing and decoder (an entry of `components`) are parts of the manifest; see `from_manifest`.

        Raises InputError where the parts do not fit together.
        """
        check_preprocessing(preprocessing)
        self.tokenizer, self.defaults = tokenizer, defaults or Settings()
        self._session, self.preprocessing = session, preprocessing
        self._decoder, self._precision = decoder, precision
        self._cached = bool(KVCache(decoder, precision, 1).past)
        ranges = decoder["ranges"]
        self.max_batch = int(ranges["batch"][1])
        self._chunk, self._positions = int(ranges["sequence"][1]), int(ranges["positions"][1])
        longest = ranges["past_sequence"][1] + 1 if self._cached else self._chunk
        self.max_sequence = min(tokenizer.maximum, int(longest))
        vocab = next(port["dims"][-1] for port in decoder["outputs"] if port["name"] == "logits")
        if isinstance(vocab, int) and vocab < tokenizer.pieces:
            raise InputError(
                f"the tokenizer has {tokenizer.pieces} pieces, the decoder {vocab}: they do not belong together."
            )

    @classmethod
    def from_manifest(
        cls, session: Session, manifest: Mapping[str, Any], root: Path, precision: str | None = None
    ) -> "Pipeline":
        """The pipeline of an opened bundle; precision is the session's, where it is not the bundle's own."""
        if manifest["generation"] is None:
            raise InputError(f"the bundle is of the family {manifest['family']}, which generates no text.")
        return cls(
            session,
            Tokenizer(root, manifest["tokenizer"]),
            manifest["preprocessing"],
            manifest["components"]["decoder"],
            precision or manifest["precision"],
            Settings(max_new_tokens=manifest["generation"]["max_new_tokens"]),
        )

    def score(self, requests: Iterable[Request], settings: Settings | None = None) -> list[Answer]:
        """The choice of each request by one greedy token, a single pass through the decoder (spec 1.5, step 5)."""
        requests = list(requests)
        if without := [request.id for request in requests if not request.choices]:
            raise InputError(f"the request {without[0]!r} has no choices to score.")
        return self.answer(requests, replace(settings or self.defaults, max_new_tokens=1, temperature=0.0))

    def texts(self, request: Request) -> list[list[int]]:
        """The ids of what the model reads of a request, not cut."""
        return [self.tokenizer.encode(request.text)]

    def text_room(self, settings: Settings) -> int:
        """The longest text that is read whole, in tokens; 0 where so many new ones leave no room."""
        return max(0, self.max_sequence - settings.max_new_tokens)

    def _check_length(self, settings: Settings) -> None:
        if settings.beams > 1:
            raise InputError("beams go with models that write after an encoder: leave them out.")
        if settings.max_new_tokens >= self.max_sequence:
            raise InputError(
                f"max_new_tokens is {settings.max_new_tokens}; prompt and answer together have "
                f"{self.max_sequence} tokens."
            )
        if settings.max_new_tokens > 1 and not self._cached:
            raise InputError("the decoder was built for a single pass, without caches: max_new_tokens must be 1.")

    def _answer_batch(self, requests: Sequence[Request], settings: Settings) -> list[Answer]:
        for request in requests:
            require_letters(request)
        room = self.text_room(settings)
        rows = [self.tokenizer.encode(request.text) for request in requests]
        if empty := [request.id for request, row in zip(requests, rows, strict=True) if not row]:
            raise InputError(f"the text of {empty[0]!r} is empty, and the tokenizer adds no beginning to it.")
        generators = [np.random.default_rng([settings.seed, zlib.crc32(request.id.encode())]) for request in requests]
        visual = self._session.run("vision", self.inputs(requests), ["visual_memory"])["visual_memory"]
        produced = self._generate([row[:room] for row in rows], visual, settings, generators)
        return [
            self._finish(request, ids, len(row) > room)
            for request, ids, row in zip(requests, produced.tolist(), rows, strict=True)
        ]

    def inputs(self, requests: Sequence[Request]) -> Arrays:
        """What `vision` takes for these requests; rows without an image are zeros with the indicator 0 (spec 1.6)."""
        indicator = np.array([request.image is not None for request in requests], np.float32)
        return {"pixel_values": self._looked_at(requests), "image_indicator": indicator}

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids padded on the left, and their mask: int64 [B,T]."""
        width = max(map(len, rows))
        ids = np.full((len(rows), width), self.tokenizer.pad, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            ids[index, width - len(row) :] = row
            mask[index, width - len(row) :] = 1
        return ids, mask

    def logits(self, ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, visual: np.ndarray) -> np.ndarray:
        """Logits [B,K,V] at the columns `positions` [B,K] of whole rows `ids` [B,T], padded as `padded` does it."""
        most = self._positions
        parts = [
            self._run_decoder(ids, positions[:, at : at + most], mask, visual, self._cache(len(ids)), keep=False)
            for at in range(0, positions.shape[1], most)
        ]
        return np.concatenate(parts, 1)

    def _cache(self, batch: int) -> KVCache:
        return KVCache(self._decoder, self._precision, batch)

    def _generate(
        self,
        rows: Sequence[Sequence[int]],
        visual: np.ndarray,
        settings: Settings,
        generators: Sequence[np.random.Generator],
    ) -> np.ndarray:
        """New token ids [B,n], n <= max_new_tokens: it ends when every row has had its EOS (spec 1.5)."""
        new, mask = self.padded(rows)
        mask = np.pad(mask, ((0, 0), (0, settings.max_new_tokens)), constant_values=1)
        cache = self._cache(len(rows))
        produced: list[np.ndarray] = []
        ended = np.zeros(len(rows), bool)
        while True:
            last = len(produced) + 1 == settings.max_new_tokens
            end = np.full((len(rows), 1), new.shape[1] - 1)
            logits = self._run_decoder(new, end, mask, visual, cache, keep=not last)[:, 0]
            produced.append(next_tokens(logits[:, : self.tokenizer.pieces], settings, generators))
            ended |= produced[-1] == self.tokenizer.eos
            if last or ended.all():
                return np.stack(produced, 1)
            new = produced[-1][:, None]

    def _run_decoder(
        self, ids: np.ndarray, asked: np.ndarray, mask: np.ndarray, visual: np.ndarray, cache: KVCache, keep: bool
    ) -> np.ndarray:
        """Logits [B,K,V] of the columns `asked` [B,K] of the new ones `ids` [B,T], run in chunks the graph's range
        allows."""
        lengths = pieces(ids.shape[1], self._chunk)
        chunks = np.split(ids, np.cumsum(lengths)[:-1], axis=1)
        found: np.ndarray | None = None
        for number, chunk in enumerate(chunks):
            start, columns = cache.length, chunk.shape[1]
            inputs = {
                "input_ids": np.ascontiguousarray(chunk),
                "attention_mask": np.ascontiguousarray(mask[:, : start + columns]),
                # Padding counts: RoPE is relative, so that only distances matter.
                "position_ids": np.tile(np.arange(start, start + columns), (len(ids), 1)),
                # A chunk gives something for columns of others too.
                "logits_positions": asked.clip(0, columns - 1),
                "visual_memory": visual,
                **cache.inputs(),
            }
            needed = cache.present if keep or number + 1 < len(chunks) else []
            outputs = self._session.run("decoder", inputs, ["logits", *needed])
            if needed:
                cache.update(outputs, columns)
            found = outputs["logits"] if found is None else np.where(asked[..., None] < 0, found, outputs["logits"])
            asked = asked - columns
        assert found is not None
        return found


def choice_in(text: str, choices: int) -> int:
    """The index of the first letter A to Z in an answer, -1 where it is none of the first `choices` (spec 1.6)."""
    found = re.search("[A-Z]", text)
    index = LETTERS.index(found[0]) if found else -1
    return index if index < choices else -1


def next_tokens(logits: np.ndarray, settings: Settings, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """The next token of each row, int64 [B]: greedy at temperature 0, else drawn with the row's generator.

    logits [B,V] float. Raises VerdictError where they are not finite, as in a half type that overflowed.
    """
    return chosen_tokens(require_finite(logits, "the decoder gave logits"), settings, generators)


def chosen_tokens(logits: np.ndarray, settings: Settings, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """As `next_tokens`, where the logits of tokens that may not come are -inf."""
    if settings.temperature == 0:
        return logits.argmax(-1).astype(np.int64)
    drawn = [_draw(row, settings, generator) for row, generator in zip(logits, generators, strict=True)]
    return np.array(drawn, np.int64)


def _draw(logits: np.ndarray, settings: Settings, generator: np.random.Generator) -> int:
    scaled = (logits.astype(np.float64) - logits.max()) / settings.temperature
    order = np.argsort(-scaled, kind="stable")
    weights = np.exp(scaled[order])
    upto = np.cumsum(weights / weights.sum())
    # A token stays where those before it hold no more than top_p: the first one always does.
    kept = 1 + int(np.searchsorted(upto[:-1], settings.top_p, side="right"))
    return int(order[np.searchsorted(upto[:kept], generator.random() * upto[kept - 1], side="right")])
