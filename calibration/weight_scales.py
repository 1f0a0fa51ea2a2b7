"""Scales of a stored matrix, and the matrix in them: one scale an output, or one for each block of inputs."""

from dataclasses import dataclass

import numpy as np

from .modes import Format, Mode, block_of

# Clips that are tried for weights of few bits, as shares of a block's largest magnitude; above 1, -8 is reached too.
_SHARES = np.array([1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5])
_COLUMNS = 1024


@dataclass(frozen=True)
class QuantizedWeight:
    """numbers [inputs, outputs] in the format's grid, float32; scales [blocks, outputs] float32, block inputs each."""

    numbers: np.ndarray
    scales: np.ndarray
    block: int

    @property
    def values(self) -> np.ndarray:
        """What the matrix has become; float32 [inputs, outputs]."""
        return self.numbers * np.repeat(self.scales, self.block, 0)


def quantize_weight(
    weight: np.ndarray, mode: Mode, method: str, dtype: np.dtype, mean_squares: np.ndarray | None = None
) -> QuantizedWeight:
    """Quantize a matrix [inputs, outputs], float32; scales are numbers of `dtype`, in which the graph holds them.

    "mse" searches the clip of 4-bit blocks by the squared error that the outputs get, where inputs are as large as
    `mean_squares` [inputs] says: `sum_k E[x_k^2] (w_k - Q(w_k))^2`. Otherwise a range ends at the largest magnitude. An
    output whose weights are all 0 has the scale 1.
    """
    block = block_of(mode, weight.shape[0])
    searched = method == "mse" and mode.weights.bits < 8
    importance = np.ones(weight.shape[0]) if mean_squares is None else mean_squares
    parts = [
        _quantize(weight[:, at : at + _COLUMNS], block, mode.weights, searched, dtype, importance)
        for at in range(0, weight.shape[1], _COLUMNS)
    ]
    numbers, scales = (np.concatenate([getattr(p, key) for p in parts], 1) for key in ("numbers", "scales"))
    return QuantizedWeight(numbers, scales, block)


def _quantize(
    weight: np.ndarray, block: int, number: Format, searched: bool, dtype: np.dtype, importance: np.ndarray
) -> QuantizedWeight:
    blocks = weight.reshape(-1, block, weight.shape[1])
    largest = np.abs(blocks).max(1)
    scales = _stored(largest / number.top, dtype)
    if searched:
        shares = importance.reshape(-1, block, 1)
        best = np.full(largest.shape, np.inf)
        chosen = scales
        for share in _SHARES:
            tried = _stored(share * largest / number.top, dtype)
            error = (shares * np.square(blocks - number.fake(blocks, tried[:, None]))).sum(1)
            chosen = np.where(error < best, tried, chosen)
            best = np.minimum(error, best)
        scales = chosen
    numbers = number.nearest(blocks / scales[:, None]).reshape(weight.shape)
    return QuantizedWeight(numbers, scales, block)


def _stored(scales: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Scales as a graph of `dtype` holds them; a scale of nothing but zeros is 1, one too small to be held as 0 the
    smallest there is."""
    held = scales.astype(dtype).astype(np.float32)
    tiny = np.float32(np.finfo(np.float16).smallest_subnormal)
    return np.where(scales == 0, np.float32(1), np.maximum(held, tiny)).astype(np.float32)
