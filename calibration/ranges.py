"""Where a range is cut: the magnitude that is mapped to the end of the number format."""

import numpy as np

from ..exporter.errors import InputError
from .modes import Format
from .observers import Histogram

METHODS = ("max", "percentile", "mse")
PERCENTILE = 99.99
# Clips that are tried by the squared error, as shares of the largest value.
_SHARES = np.geomspace(1.0, 0.02, 96)


def check_method(method: str) -> None:
    """Raise InputError for an unknown method."""
    if method not in METHODS:
        raise InputError(f"the method is {', '.join(METHODS)}, not {method!r}.")


def clip_of(histogram: Histogram, method: str, number: Format) -> float:
    """The clip t of a tensor; `scale = t / number.top`. 0 where all its values are 0.

    "max": the largest magnitude. "percentile": PERCENTILE of the magnitudes are below it. "mse": the t of least
    `sum of count(x) (x - Q_t(x))^2` over the histogram.
    """
    largest = histogram.largest
    if method == "max" or largest == 0.0:
        return largest
    if method == "percentile":
        below = np.cumsum(histogram.counts)
        index = int(np.searchsorted(below, PERCENTILE / 100 * below[-1]))
        clip = min(largest, (index + 1) * histogram.width)
        return float(clip)
    filled = np.flatnonzero(histogram.counts)
    values, counts = histogram.centres[filled], histogram.counts[filled].astype(np.float64)
    errors = [
        float(counts @ np.square(values - number.fake(values, largest * share / number.top))) for share in _SHARES
    ]
    return float(largest * _SHARES[int(np.argmin(errors))])
