"""Image and text -> answer with MemVP on an encoder-decoder (spec 2.1), as transformers' generate() writes it, over any
Session."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .beam_search import BeamSettings, beam_search
from .cache import Cache, is_present, past_of, pieces
from .data import Answer, Request
from .dims import ENCODER_SEQUENCE
from .encoder_tokenizer import EncoderTokenizer
from .errors import InputError
from .images import check_preprocessing
from .kept import cache_of, kept
from .kv_cache import KVCache
from .next_token import chosen_tokens
from .padding import padded
from .session import Arrays, Session, require_finite
from .settings import Settings
from .text_pipeline import TextPipeline, require_same_ids
from .token_rules import TokenRules
from .tokenization import Tokenizer

VISION, ENCODER, DECODER = "vision", "encoder", "decoder"
_MEMORY = "visual_memory"


class EncoderDecoder(TextPipeline):
    """Answers requests with the components `vision`, `encoder` and `decoder` of a session.

    Attributes: those of `TextPipeline`; max_sequence, the longest text that is read, in tokens; max_written, the most
    that are written; start, the token before the first of these.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer | EncoderTokenizer,
        preprocessing: Mapping[str, Any],
        components: Mapping[str, Any],
        generation: Mapping[str, Any],
        precision: str = "fp32",
    ) -> None:
        """preprocessing, components and generation are parts of the manifest; see `from_manifest`. Raises InputError
        where the parts do not fit together."""
        check_preprocessing(preprocessing)
        self.tokenizer, self.preprocessing = tokenizer, preprocessing
        self.defaults = Settings(max_new_tokens=int(generation["max_new_tokens"]))
        self.start = int(generation["decoder_start_token_id"])
        self._session, self._generation, self._precision = session, generation, precision
        self._decoder = components[DECODER]
        self._cached = bool(KVCache(self._decoder, precision, 1).past)
        self._takes = {name: [port["name"] for port in part["inputs"]] for name, part in components.items()}
        # The keys and values that the encoder leaves for the decoder.
        left = [port["name"] for port in components[ENCODER]["outputs"]]
        self._left = {name: past_of(name) for name in left if is_present(name)}
        visual = [_MEMORY] if _MEMORY in self._takes[DECODER] else []
        self._constant = [*self._left.values(), "encoder_attention_mask", *visual]
        ranges = self._decoder["ranges"]
        self.max_batch = min(int(part["ranges"]["batch"][1]) for part in components.values())
        self.max_sequence = min(tokenizer.maximum, *(_longest_text(components[name]) for name in (ENCODER, DECODER)))
        self._chunk = int(ranges["sequence"][1])
        self.max_written = int(ranges["past_sequence"][1]) + 1 if self._cached else 1
        require_same_ids(self._decoder, tokenizer)

    @classmethod
    def from_manifest(
        cls, session: Session, manifest: Mapping[str, Any], root: Path, precision: str | None = None
    ) -> "EncoderDecoder":
        """The pipeline of an opened bundle; precision is the session's, where it is not the bundle's own."""
        return cls(
            session,
            open_tokenizer(root, manifest["tokenizer"]),
            manifest["preprocessing"],
            manifest["components"],
            manifest["generation"],
            precision or manifest["precision"],
        )

    def score(self, requests: Sequence[Request], settings: Settings | None = None) -> list[Answer]:
        """Raises InputError: choices are for models that were trained to name one by its letter."""
        raise InputError("this model writes its answer: leave the choices out.")

    def check(self, request: Request) -> None:
        """Raise InputError for a request that has more than this model looks at."""
        super().check(request)
        if request.choices:
            raise InputError(f"the request {request.id!r} has choices; this model writes its answer.")

    def texts(self, request: Request) -> list[list[int]]:
        """The ids of what the model reads of a request, not cut."""
        return [self.tokenizer.encode(request.text)]

    def inputs(self, requests: Sequence[Request]) -> Arrays:
        """What `vision` takes for these requests; rows without an image are zeros."""
        (name,) = self._takes[VISION]
        return {name: self._looked_at(requests)}

    def text_room(self, settings: Settings) -> int:
        """The longest text that is read whole, in tokens; 0 where so many new tokens cannot be written."""
        return self.max_sequence if settings.max_new_tokens <= self.max_written else 0

    def text_inputs(self, requests: Sequence[Request]) -> Arrays:
        """The texts that `encoder` takes, input_ids and attention_mask [B,T] int64; see `padding.padded`."""
        return self._padded(self._rows(requests))

    def shown(self, requests: Sequence[Request], visual: np.ndarray) -> np.ndarray:
        """The visual memory [B,v,d] that `vision` gave, without that of rows that have no image."""
        has_image = np.array([request.image is not None for request in requests])
        if has_image.all():
            return visual
        return np.where(has_image[:, None, None], visual, np.zeros_like(visual))

    def read(self, requests: Sequence[Request]) -> Arrays:
        """What a batch's images and texts are to the decoder: its inputs that do not change while it writes."""
        return self._read(requests, self._rows(requests))

    def _read(self, requests: Sequence[Request], rows: Sequence[Sequence[int]]) -> Arrays:
        visual = self._session.run(VISION, self.inputs(requests), [_MEMORY])[_MEMORY]
        known = {**self._padded(rows), _MEMORY: self.shown(requests, visual)}
        return self.held(known | self.encoded({name: known[name] for name in self._takes[ENCODER]}))

    def encoded(self, inputs: Mapping[str, np.ndarray], *others: str) -> Arrays:
        """What `encoder` leaves for the decoder, by the names it has there, and other outputs by their own."""
        outputs = self._session.run(ENCODER, inputs, [*self._left, *others])
        mask = {"encoder_attention_mask": inputs["attention_mask"]}
        return {self._left.get(name, name): array for name, array in outputs.items()} | mask

    def held(self, known: Mapping[str, np.ndarray]) -> Arrays:
        """Those of the decoder's inputs that do not change while it writes."""
        return {name: known[name] for name in self._constant}

    def rules(self, settings: Settings) -> TokenRules:
        """What may be written next; lengths count the start token."""
        return TokenRules.from_manifest(self._generation, self.tokenizer.eos, 1 + settings.max_new_tokens)

    def logits(self, ids: np.ndarray, read: Arrays) -> np.ndarray:
        """Logits [B,T,V] of whole rows `ids` [B,T] that begin with the start token, in the pieces that fit; read is
        what `read` or `held` gave."""
        return self._run_decoder(ids, kept(self._session, DECODER, read), self._cache(len(ids)), keep=False)

    def _check_length(self, settings: Settings) -> None:
        if settings.max_new_tokens > 1 and not self._cached:
            raise InputError("the decoder was built for a single pass, without caches: max_new_tokens must be 1.")
        if settings.max_new_tokens > self.max_written:
            raise InputError(
                f"max_new_tokens is {settings.max_new_tokens}; the decoder writes at most {self.max_written} tokens."
            )

    def _answer_batch(self, requests: Sequence[Request], settings: Settings) -> list[Answer]:
        generators = [np.random.default_rng([settings.seed, zlib.crc32(request.id.encode())]) for request in requests]
        rows = self._rows(requests)
        read = self._read(requests, rows)
        if settings.beams > 1:
            produced = self._search(read, len(requests), settings)
        else:
            produced = self._generate(read, settings, generators).tolist()
        return [
            self._finish(request, ids, len(row) > self.max_sequence)
            for request, ids, row in zip(requests, produced, rows, strict=True)
        ]

    def _rows(self, requests: Sequence[Request]) -> list[list[int]]:
        """The ids of each request's text, not cut."""
        return [self.tokenizer.encode(request.text) for request in requests]

    def _padded(self, rows: Sequence[Sequence[int]]) -> Arrays:
        return padded(rows, self.max_sequence, self.tokenizer.pad)

    def _generate(self, read: Arrays, settings: Settings, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """New token ids [B,n], n <= max_new_tokens: it ends when every row has had its EOS."""
        rules, rows = self.rules(settings), len(generators)
        cache, read = self._cache(rows), kept(self._session, DECODER, read)
        ids = np.full((rows, 1), self.start, np.int64)
        ended = np.zeros(rows, bool)
        while True:
            last = ids.shape[1] == settings.max_new_tokens
            found = self._run_decoder(ids[:, -1:], read, cache, keep=not last)[:, -1, : self.tokenizer.pieces]
            allowed = rules.applied(require_finite(found, "the decoder gave logits", self._precision), ids)
            new = chosen_tokens(allowed, settings, generators)
            ids = np.concatenate([ids, new[:, None]], 1)
            ended |= new == self.tokenizer.eos
            if last or ended.all():
                return ids[:, 1:]

    def _search(self, read: Arrays, rows: int, settings: Settings) -> list[list[int]]:
        """The new token ids of each row that so many beams find."""
        wide = kept(self._session, DECODER, {name: np.repeat(a, settings.beams, 0) for name, a in read.items()})
        cache = self._cache(rows * settings.beams)

        def next_logits(ids: np.ndarray, origins: np.ndarray | None) -> np.ndarray:
            if origins is not None:
                cache.reorder(origins)
            found = self._run_decoder(ids[:, -1:], wide, cache, keep=ids.shape[1] < settings.max_new_tokens)
            return require_finite(found[:, -1], "the decoder gave logits", self._precision)

        said = self._generation.get("length_penalty", 1.0), self._generation.get("early_stopping", False)
        how = BeamSettings(settings.beams, *said)
        return beam_search(next_logits, rows, self.start, self.rules(settings), how, self.tokenizer.pieces)

    def _cache(self, batch: int) -> Cache:
        return cache_of(self._session, DECODER, self._decoder, self._precision, batch)

    def _run_decoder(self, ids: np.ndarray, read: Mapping[str, Any], cache: Cache, keep: bool) -> np.ndarray:
        """Logits [B,T,V] of the new columns `ids` [B,T]."""
        lengths = pieces(ids.shape[1], self._chunk)
        found = []
        for number, chunk in enumerate(np.split(ids, np.cumsum(lengths)[:-1], axis=1)):
            inputs = {"input_ids": np.ascontiguousarray(chunk), **read, **cache.inputs()}
            needed = cache.present if keep or number + 1 < len(lengths) else []
            outputs = self._session.run(DECODER, inputs, ["logits", *needed])
            if needed:
                cache.update(outputs, chunk.shape[1])
            found.append(outputs["logits"])
        return np.concatenate(found, 1)


def open_tokenizer(root: Path, entry: Mapping[str, Any]) -> Tokenizer | EncoderTokenizer:
    """The tokenizer of a bundle whose model writes text, after the manifest's entry. Raises InputError where the entry
    and the files do not fit."""
    return (Tokenizer if entry.get("type") == "sentencepiece" else EncoderTokenizer)(root, entry)


def _longest_text(component: Mapping[str, Any]) -> int:
    return int(component["ranges"][ENCODER_SEQUENCE][1])
