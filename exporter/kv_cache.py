"""A cache in host memory, for sessions that take arrays and give arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .cache import Cache
from .session import Arrays


class KVCache(Cache):
    """A Cache whose past is arrays."""

    def __init__(self, component: Mapping[str, Any], precision: str, batch: int) -> None:
        """See Cache."""
        super().__init__(component, precision, batch)
        self._arrays = {name: self._zeros(shape, self._dtypes[name]) for name, shape in self._empty.items()}

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return np.zeros(shape, dtype)

    def inputs(self) -> Arrays:
        """See Cache.inputs."""
        return dict(self._arrays)

    def held(self) -> Arrays:
        """The columns held, [B,heads,length,head_dim], by input name."""
        part = (slice(None),) * self._axis + (slice(self.length),)
        return {name: array[part] for name, array in self._arrays.items()}

    def _reorder(self, rows: np.ndarray) -> None:
        self._arrays = {name: array[rows] for name, array in self._arrays.items()}

    def _take(self, outputs: Mapping[str, Any]) -> None:
        new = {past: outputs[present] for past, present in zip(self.past, self.present, strict=True)}
        if self._kind == "delta":
            new = {past: np.concatenate([self._arrays[past], array], self._axis) for past, array in new.items()}
        self._arrays = new
