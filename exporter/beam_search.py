"""Beam search as transformers' generate() does it without sampling: the ids whose tokens are most probable together,
given their length, among those that a few beams find."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .token_rules import TokenRules

# What counts as never: a beam with this score gives way to every other.
_NEVER = -1e9


@dataclass(frozen=True)
class BeamSettings:
    """beams is how many are followed. The score of an ended one of n new tokens is its log probability /
    n^length_penalty.

    early_stopping True: a row ends when it has as many ended beams as beams; False: when also the best that goes on
    has, at its length, no better score than the worst ended one; "never": nor could have at the greatest length.
    """

    beams: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False


# (ids [B*beams,T], the row of the last call that each goes on from, None at first) -> logits [B*beams,V] of what
# follows.
NextLogits = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


@dataclass
class _Row:
    """The search of one row: ids [beams,T] that go on, with their log probabilities, and those that ended, with
    their scores, best first."""

    ids: np.ndarray
    scores: np.ndarray
    ended: list[tuple[float, list[int]]] = field(default_factory=list)
    open: bool = True


def beam_search(
    next_logits: NextLogits, rows: int, start: int, rules: TokenRules, settings: BeamSettings, pieces: int
) -> list[list[int]]:
    """The new token ids of each row, at most `rules.max_length` - 1, the one that ends them included. Ids from `pieces`
    on are never taken, but share the probability."""
    beams = settings.beams
    first = np.full(beams, _NEVER, np.float32)
    first[0] = 0
    searches = [_Row(np.full((beams, 1), start, np.int64), first.copy()) for _ in range(rows)]
    origins = None
    while True:
        ids = np.concatenate([search.ids for search in searches])
        found = rules.applied(_log_softmax(next_logits(ids, origins))[:, :pieces], ids)
        parents = [
            _advance(search, found[row * beams : (row + 1) * beams], rules, settings)
            for row, search in enumerate(searches)
        ]
        if not any(search.open for search in searches):
            return [search.ended[0][1] for search in searches]
        origins = np.concatenate([row * beams + own for row, own in enumerate(parents)])


def _advance(row: _Row, found: np.ndarray, rules: TokenRules, settings: BeamSettings) -> np.ndarray:
    """Put one token behind each beam of a row, given the log probabilities [beams,V] of all; returns the beams [beams]
    that those which go on had before."""
    beams, length = row.ids.shape
    total = (found + row.scores[:, None]).ravel()
    # Each beam can end in one way: twice as many leave enough to go on.
    best = np.argsort(-total, kind="stable")[: 2 * beams]
    parents, tokens = np.divmod(best, found.shape[1])
    ids, scores = np.concatenate([row.ids[parents], tokens[:, None]], 1), total[best]
    ends = (tokens == rules.eos) | (length + 1 >= rules.max_length)
    if row.open:
        made = [
            (float(scores[i]) / length**settings.length_penalty, ids[i, 1:].tolist())
            for i in np.flatnonzero(ends[:beams])
        ]
        row.ended = sorted([*row.ended, *made], key=lambda one: -one[0])[:beams]
    scores = np.where(ends, scores + np.float32(_NEVER), scores)
    on = np.argsort(-scores, kind="stable")[:beams]
    row.ids, row.scores = ids[on], scores[on]
    row.open &= length + 1 < rules.max_length and _goes_on(row, length, rules, settings)
    return parents[on]


def _goes_on(row: _Row, written: int, rules: TokenRules, settings: BeamSettings) -> bool:
    """Whether beams of `written` new tokens may still be better than those that ended."""
    if len(row.ended) < settings.beams:
        return True
    if settings.early_stopping is True:
        return False
    farthest = settings.early_stopping == "never" and settings.length_penalty > 0
    length = rules.max_length - 1 if farthest else written
    return float(row.scores[0]) / length**settings.length_penalty > row.ended[-1][0]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Summed in float64, whose order then does not matter: the C++ runtime has the same scores."""
    shifted = logits.astype(np.float32) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted, dtype=np.float64).sum(-1, keepdims=True)).astype(np.float32)
