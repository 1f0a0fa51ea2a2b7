"""How far one array is from another."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Distance:
    """Differences of an output from its reference; max, mean and p99 are absolute, relative_l2 is
    `|actual - expected| / |expected|`. NaN or infinite values on either side make every figure infinite."""

    max: float
    mean: float
    p99: float
    cosine: float
    relative_l2: float
    finite: bool


INCOMPARABLE = Distance(np.inf, np.inf, np.inf, -1.0, np.inf, False)


def distance(actual: np.ndarray, expected: np.ndarray) -> Distance:
    """Compare two arrays of one shape in float64."""
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {actual.shape} and {expected.shape}")
    a, e = np.asarray(actual, np.float64).ravel(), np.asarray(expected, np.float64).ravel()
    if not a.size:
        return Distance(0.0, 0.0, 0.0, 1.0, 0.0, True)
    if not (np.isfinite(a).all() and np.isfinite(e).all()):
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
    second exceeds `margin` times the row's standard deviation. A near tie may fall either way in any arithmetic."""

    top1: float
    decisive: int
    decisive_top1: float


def top1_agreement(actual: np.ndarray, expected: np.ndarray, margin: float) -> Agreement:
    """Compare the arg max over the last axis. actual and expected [..., V]."""
    a, e = actual.reshape(-1, actual.shape[-1]), expected.reshape(-1, expected.shape[-1])
    same = a.argmax(-1) == e.argmax(-1)
    best = np.partition(e, -2, axis=-1)[:, -2:] if e.shape[-1] > 1 else np.zeros((len(e), 2))
    clear = best[:, 1] - best[:, 0] > margin * e.std(-1)
    return Agreement(
        float(same.mean()) if same.size else 1.0,
        int(clear.sum()),
        float(same[clear].mean()) if clear.any() else 1.0,
    )
