"""Logits -> the next token of each row: the most probable one, or one that is drawn."""

from collections.abc import Sequence

import numpy as np

from .session import require_finite
from .settings import Settings


def next_tokens(logits: np.ndarray, settings: Settings, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """The next token of each row, int64 [B]: greedy at temperature 0, else drawn with the row's generator.

    logits [B,V] float. Raises VerdictError where they are not finite, as in a half type that overflowed.
    """
    return chosen_tokens(require_finite(logits, "the decoder gave logits"), settings, generators)


def chosen_tokens(logits: np.ndarray, settings: Settings, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """As `next_tokens` of logits [B,V], where those of tokens that may not come are -inf."""
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
