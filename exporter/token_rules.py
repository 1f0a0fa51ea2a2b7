"""What a model's generation settings forbid or force while it writes, as transformers' generate() follows them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_NEVER = -np.inf


@dataclass(frozen=True)
class TokenRules:
    """Rules about the next token of ids that begin with the decoder's start token, which counts in every length.

    no_repeat_ngram: no run of so many ids may come twice; 0 allows all. min_length: `eos` comes only behind so many
    ids. forced_first is the id behind the start token, forced_last the one that ends ids of max_length; None forces
    none. They go in this order, and a later one undoes what an earlier one forbids.
    """

    eos: int
    max_length: int
    no_repeat_ngram: int = 0
    min_length: int = 0
    forced_first: int | None = None
    forced_last: int | None = None

    @classmethod
    def from_manifest(cls, generation: Mapping[str, Any], eos: int, max_length: int) -> "TokenRules":
        """The rules of a manifest's `generation`, under the names of transformers' generation settings."""
        return cls(
            eos,
            max_length,
            generation.get("no_repeat_ngram_size") or 0,
            generation.get("min_length") or 0,
            generation.get("forced_bos_token_id"),
            generation.get("forced_eos_token_id"),
        )

    def applied(self, logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The logits [B,V] of the token that follows ids [B,T], -inf where it may not come; a forced one has 0."""
        length = ids.shape[1]
        allowed = logits.copy()
        if 0 < self.no_repeat_ngram <= length:
            _forbid_repeated(allowed, ids, self.no_repeat_ngram)
        if length < self.min_length:
            allowed[:, self.eos] = _NEVER
        if self.forced_first is not None and length == 1:
            _force(allowed, self.forced_first)
        if self.forced_last is not None and length == self.max_length - 1:
            _force(allowed, self.forced_last)
        return allowed


def _force(logits: np.ndarray, token: int) -> None:
    logits[:] = _NEVER
    logits[:, token] = 0


def _forbid_repeated(logits: np.ndarray, ids: np.ndarray, size: int) -> None:
    """-inf for every id that followed the last size - 1 ids before."""
    windows = np.lib.stride_tricks.sliding_window_view(ids, size, axis=1)
    repeated = (windows[..., :-1] == ids[:, None, ids.shape[1] + 1 - size :]).all(-1)
    rows, starts = np.nonzero(repeated)
    logits[rows, windows[rows, starts, -1]] = _NEVER
