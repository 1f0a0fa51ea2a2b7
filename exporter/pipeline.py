"""Image and text -> answer with MemVP-LLaMA, as the paper's generate() does it (spec 1.5), over any Session."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .cache import Cache, pieces
from .data import Answer, Request, require_letters
from .errors import InputError
from .images import check_preprocessing
from .kept import cache_of, kept
from .kv_cache import KVCache
from .next_token import next_tokens
from .session import Arrays, Session
from .settings import Settings
from .text_pipeline import TextPipeline, require_same_ids
from .tokenization import Tokenizer


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
        require_same_ids(decoder, tokenizer)

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
        most, seen = self._positions, kept(self._session, "decoder", {"visual_memory": visual})
        parts = [
            self._run_decoder(ids, positions[:, at : at + most], mask, seen, self._cache(len(ids)), keep=False)
            for at in range(0, positions.shape[1], most)
        ]
        return np.concatenate(parts, 1)

    def _cache(self, batch: int) -> Cache:
        return cache_of(self._session, "decoder", self._decoder, self._precision, batch)

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
        cache, seen = self._cache(len(rows)), kept(self._session, "decoder", {"visual_memory": visual})
        produced: list[np.ndarray] = []
        ended = np.zeros(len(rows), bool)
        while True:
            last = len(produced) + 1 == settings.max_new_tokens
            end = np.full((len(rows), 1), new.shape[1] - 1)
            logits = self._run_decoder(new, end, mask, seen, cache, keep=not last)[:, 0]
            produced.append(next_tokens(logits[:, : self.tokenizer.pieces], settings, generators))
            ended |= produced[-1] == self.tokenizer.eos
            if last or ended.all():
                return np.stack(produced, 1)
            new = produced[-1][:, None]

    def _run_decoder(
        self,
        ids: np.ndarray,
        asked: np.ndarray,
        mask: np.ndarray,
        seen: Mapping[str, Any],
        cache: Cache,
        keep: bool,
    ) -> np.ndarray:
        """Logits [B,K,V] of the columns `asked` [B,K] of the new ones `ids` [B,T], run in chunks the graph's range
        allows; seen is the decoder's visual memory."""
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
                **seen,
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
