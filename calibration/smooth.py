"""SmoothQuant: what is hard to quantize in activations is moved into weights, by each norm's own strength.

With x the normed values, W the matrices that read them and s > 0 a number for every channel,

    x W = (x / s) (diag(s) W),    s_k = max|x_k|^alpha / max|W_k|^(1 - alpha)

The product is folded into W; the division into the weight and bias of the norm in front, where there is one, else it is
a product of its own with 1/s (in front of a down projection, whose inputs a gate has made): both are exact. alpha is
searched for every such x by the error of the quantized products on rows that were kept of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .modes import Mode
from .observers import Histogram, Observer
from .ranges import clip_of
from .weight_scales import quantize_weight

ALPHAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# No channel is divided by more, or less, than this: what is left of a channel must not vanish in half precision.
_MOST = 1e3


@dataclass(frozen=True)
class Smoothing:
    """alpha 0 means that nothing is divided (factors are all 1): it is tried too. errors gives for every alpha the
    relative squared error of the norm's products."""

    alpha: float
    factors: np.ndarray
    errors: dict[float, float]


def factors_of(activations: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """s [channels], float32, of geometric mean 1; 1 for channels that are 0 throughout in activations or weights."""
    dead = (activations == 0) | (weights == 0)
    a, w = (np.where(dead, 1, part).astype(np.float64) for part in (activations, weights))
    factors = np.where(dead, 1, a**alpha / w ** (1 - alpha))
    alive = factors[~dead]
    if alive.size:
        factors = np.where(dead, 1, factors / np.exp(np.log(alive).mean()))
    return np.clip(factors, 1 / _MOST, _MOST).astype(np.float32)


def search(
    observer: Observer, weights: Mapping[str, np.ndarray], mode: Mode, method: str, dtype: np.dtype
) -> Smoothing:
    """The smoothing of observed values that matrices [channels, outputs], float32, by layer read."""
    largest = np.max([np.abs(weight).max(1) for weight in weights.values()], 0)
    tried = {0.0: np.ones(len(largest), np.float32)}
    tried |= {alpha: factors_of(observer.maxima, largest, alpha) for alpha in ALPHAS}
    errors = {
        alpha: sum(squared_error(observer, weight, mode, method, dtype, factors) for weight in weights.values())
        for alpha, factors in tried.items()
    }
    best = min(errors, key=errors.__getitem__)
    return Smoothing(best, tried[best], errors)


def squared_error(
    observer: Observer,
    weight: np.ndarray,
    mode: Mode,
    method: str,
    dtype: np.dtype,
    factors: np.ndarray | float = 1.0,
    clip: float | None = None,
) -> float:
    """The mean over the rows kept of x of `|Q(x / s) Q(diag(s) W) - x W|^2 / |x W|^2`, for W [n,m] and factors s [n];
    clip is that of x / s where it is known. By rows, because norms behind the product make tokens of all sizes alike: a
    few outlier tokens would otherwise hide what becomes of the others."""
    factors = np.broadcast_to(np.asarray(factors, np.float32), weight.shape[:1])
    rows, exact = observer.rows / factors, observer.rows @ weight
    quantized = quantize_weight(weight * factors[:, None], mode, method, dtype, observer.mean_squares / factors**2)
    if mode.activations:
        if clip is None:
            histogram = Histogram()
            histogram.update(np.abs(rows))
            histogram.update(observer.maxima / factors)
            clip = clip_of(histogram, method, mode.activations)
        rows = mode.activations.fake(rows, clip / mode.activations.top) if clip else rows
    gap = np.square(rows @ quantized.values - exact, dtype=np.float64).sum(1)
    power = np.square(exact, dtype=np.float64).sum(1)
    return float(np.mean(gap[power > 0] / power[power > 0])) if power.any() else 0.0
