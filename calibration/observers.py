"""What is kept of the values of one tensor while samples stream by: a fixed amount, whatever their number."""

import math

import numpy as np

from ..exporter.errors import InputError

BINS = 16384
ROWS = 128


class Histogram:
    """Counts of magnitudes in BINS bins from 0 to a power of two, which doubles when a larger value comes: then pairs
    of bins are merged. So the counts depend on the values alone, not on their order or batches."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.largest = 0.0
        self._exponent: int | None = None

    def update(self, magnitudes: np.ndarray) -> None:
        """Count finite magnitudes of any shape."""
        flat = magnitudes.ravel()
        largest = float(flat.max(initial=0.0))
        if largest == 0.0:
            self.counts[0] += flat.size
            return
        # frexp's power is above the value even where the value is a power of two itself.
        self._reach(math.frexp(largest)[1])
        assert self._exponent is not None
        bins = (flat * np.float32(math.ldexp(BINS, -self._exponent))).astype(np.int32)
        self.counts += np.bincount(bins, minlength=BINS)
        self.largest = max(self.largest, largest)

    def _reach(self, exponent: int) -> None:
        if self._exponent is None:
            # What was counted before were zeros.
            self._exponent = exponent
        for _ in range(exponent - self._exponent):
            halved = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([halved, np.zeros(BINS // 2, np.int64)])
        self._exponent = max(self._exponent, exponent)

    @property
    def width(self) -> float:
        """Of one bin."""
        return math.ldexp(1.0, self._exponent) / BINS if self._exponent is not None else 0.0

    @property
    def centres(self) -> np.ndarray:
        """The magnitude that stands for each bin; float64 [BINS]. Nothing is above the largest value."""
        return np.minimum((np.arange(BINS) + 0.5) * self.width, self.largest)

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays, for `restore`."""
        exponent = np.iinfo(np.int64).min if self._exponent is None else self._exponent
        return {"counts": self.counts, "largest": np.array(self.largest), "exponent": np.array(exponent)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take over a state."""
        exponent = int(state["exponent"])
        self.counts, self.largest = state["counts"].copy(), float(state["largest"])
        self._exponent = None if exponent == np.iinfo(np.int64).min else exponent


class Observer:
    """A tensor's rows [n, width] as they come: a histogram, each channel's largest magnitude and mean square, and ROWS
    of the rows, drawn by priority: those with the lowest ones stay.

    divisor [width]: the values are divided by it first (SmoothQuant).
    """

    def __init__(self, width: int, divisor: np.ndarray | None = None) -> None:
        self.histogram = Histogram()
        self.maxima = np.zeros(width, np.float32)
        self.squares = np.zeros(width, np.float64)
        self.count = 0
        self.rows = np.zeros((0, width), np.float32)
        self._priorities = np.zeros(0)
        self._divisor = divisor

    def update(self, rows: np.ndarray, priorities: np.ndarray, name: str) -> None:
        """Take in rows [n, width] and a priority [n] for each. Raises InputError for values that are not finite."""
        if not len(rows):
            return
        if self._divisor is not None:
            rows = rows / self._divisor
        magnitudes = np.abs(rows)
        maxima = magnitudes.max(0)
        if not np.isfinite(maxima).all():
            raise InputError(
                f"{name} takes values that are not finite on these samples: no range can be found. Run "
                "`memvp-export check` on the bundle; its weights or the samples are damaged."
            )
        np.maximum(self.maxima, maxima, out=self.maxima)
        self.squares += np.einsum("nk,nk->k", rows, rows, dtype=np.float64)
        self.count += len(rows)
        self.histogram.update(magnitudes)
        self._keep(rows, priorities)

    def _keep(self, rows: np.ndarray, priorities: np.ndarray) -> None:
        if len(self._priorities) == ROWS:
            better = priorities < self._priorities.max()
            rows, priorities = rows[better], priorities[better]
        every = np.concatenate([self._priorities, priorities])
        order = np.argsort(every, kind="stable")[:ROWS]
        self._priorities, self.rows = every[order], np.concatenate([self.rows, rows])[order]

    @property
    def mean_squares(self) -> np.ndarray:
        """Of each channel; float64 [width]."""
        return self.squares / max(1, self.count)

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays, for `restore`."""
        return {
            **self.histogram.state(),
            "maxima": self.maxima,
            "squares": self.squares,
            "count": np.array(self.count),
            "rows": self.rows,
            "priorities": self._priorities,
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take over a state."""
        self.histogram.restore(state)
        self.maxima, self.squares, self.rows = (state[key].copy() for key in ("maxima", "squares", "rows"))
        self._priorities, self.count = state["priorities"].copy(), int(state["count"])
