"""How far one array, or answer, is from another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Distance:
    """Differences of an output from its reference; max, mean and p99 are absolute, relative_l2 is
    `|actual - expected| / |expected|`. NaN or infinite values on either side make every figure infinite, and so does
    having nothing to compare."""

    max: float
    mean: float
    p99: float
    cosine: float
    relative_l2: float
    finite: bool


INCOMPARABLE = Distance(np.inf, np.inf, np.inf, -1.0, np.inf, False)


def distance(actual: np.ndarray, expected: np.ndarray) -> Distance:
    """Compare two arrays of one shape, whatever it is, in float64. Raises ValueError where the shapes differ."""
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {actual.shape} and {expected.shape}")
    a, e = np.asarray(actual, np.float64).ravel(), np.asarray(expected, np.float64).ravel()
    if not a.size or not (np.isfinite(a).all() and np.isfinite(e).all()):
        return INCOMPARABLE
    gap = np.abs(a - e)
    norm_a, norm_e = float(np.linalg.norm(a)), float(np.linalg.norm(e))
    error = float(np.linalg.norm(gap))
    relative = error / norm_e if norm_e else (np.inf if error else 0.0)
    cosine = float(a @ e) / (norm_a * norm_e) if norm_a and norm_e else float(norm_a == norm_e)
    return Distance(
        float(gap.max()), float(gap.mean()), float(np.percentile(gap, 99)), min(cosine, 1.0), float(relative), True
    )


@dataclass(frozen=True)
class Agreement:
    """Top-1 agreement of logits: over all rows, and over the decisive ones, whose reference margin between first and
    second exceeds `margin` times the row's standard deviation. A near tie may fall either way in any arithmetic.

    decisive_top1 is 1 where rows were compared and none is decisive: then it says nothing. rows is their number, kl, in
    nats, the mean over them of `sum p log(p / q)`, where p is the reference's softmax and q the other one's."""

    top1: float
    decisive: int
    decisive_top1: float
    rows: int
    kl: float


def margins(logits: np.ndarray) -> np.ndarray:
    """How far the first token leads the second, in standard deviations of its row. logits [..., V] -> [...]."""
    return leads(logits, logits.std(-1, dtype=np.float64))


def leads(logits: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """How far the first token leads the second in units of `spread` [...]; infinite where no second one may come, whose
    logits are -inf. logits [..., V] -> [...]."""
    if logits.shape[-1] < 2:
        return np.zeros(logits.shape[:-1])
    best = np.partition(logits.astype(np.float64), -2, axis=-1)[..., -2:]
    lead = best[..., 1] - best[..., 0]
    return np.divide(lead, spread, out=np.zeros_like(lead), where=spread > 0)


def top1_agreement(actual: np.ndarray, expected: np.ndarray, margin: float) -> Agreement:
    """Compare the arg max over the last axis. actual and expected [..., V]."""
    a, e = actual.reshape(-1, actual.shape[-1]), expected.reshape(-1, expected.shape[-1])
    if not len(e):
        return Agreement(0.0, 0, 0.0, 0, np.inf)
    same, clear = a.argmax(-1) == e.argmax(-1), margins(e) > margin
    decisive = float(same[clear].mean()) if clear.any() else 1.0
    return Agreement(float(same.mean()), int(clear.sum()), decisive, len(e), float(divergences(a, e).mean()))


def divergences(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The Kullback-Leibler divergence of every row of logits [..., V] from the reference's, in nats: float64 [...].
    Infinite where logits are not finite."""
    a, e = (logits.astype(np.float64) for logits in (actual, expected))
    finite = np.isfinite(a).all(-1) & np.isfinite(e).all(-1)
    with np.errstate(invalid="ignore"):
        p, q = _log_softmax(e), _log_softmax(a)
        return np.where(finite, (np.exp(p) * (p - q)).sum(-1), np.inf)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def parted_at(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Where the tokens of two answers first differ; where one answer goes on, that is the other's EOS. None where they
    are equal."""
    if list(first) == list(second):
        return None
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))
