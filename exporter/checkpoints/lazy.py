"""Tensors that stay in their file until they are asked for."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a checkpoint: shape and dtype are known, `load` reads it (a new tensor at every call).

    origin names the file and the key, for messages. load_rows(start, stop) reads a slice of the first axis, where the
    file holds the rows one after another; None elsewhere.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    origin: str
    load: Callable[[], Tensor]
    load_rows: Callable[[int, int], Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Size of the loaded tensor in bytes."""
        size = self.dtype.itemsize
        for dim in self.shape:
            size *= dim
        return size

    def reshape(self, *shape: int) -> "LazyTensor":
        """The same values in row-major order under another shape."""
        return self.mapped(shape, lambda tensor: tensor.reshape(shape))

    def rows(self, start: int, stop: int) -> "LazyTensor":
        """The slice `[start:stop]` of the first axis; no more than it is read where the file allows that."""
        load_rows = self.load_rows

        def load() -> Tensor:
            return self.load()[start:stop].clone() if load_rows is None else load_rows(start, stop)

        shape = (stop - start, *self.shape[1:])
        return replace(self, shape=shape, load=load, load_rows=None)

    def mapped(self, shape: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> "LazyTensor":
        """`change` applied to the tensor whenever it is loaded; it keeps the dtype and gives `shape`."""
        return replace(self, shape=shape, load=lambda: change(self.load()), load_rows=None)


def concatenated(parts: Sequence[LazyTensor], dim: int) -> LazyTensor:
    """`torch.cat(parts, dim)`; loading holds the result and one part, never all parts."""
    first = parts[0]
    if len(parts) == 1:
        return first
    shape = list(first.shape)
    shape[dim] = sum(part.shape[dim] for part in parts)

    def load() -> Tensor:
        result = torch.empty(shape, dtype=first.dtype)
        start = 0
        for part in parts:
            result.narrow(dim, start, part.shape[dim]).copy_(part.load())
            start += part.shape[dim]
        return result

    return replace(first, shape=tuple(shape), load=load, load_rows=None)


def read_values(path: Path, start: int, count: int, dtype: torch.dtype) -> Tensor:
    """`count` values from byte `start` of a file, as a new tensor [count]; InputError where the file is shorter, which
    is known before anything of that size is allocated.

    Not mapped: the pages of a mapped file count as memory of this process.
    """
    end = start + count * dtype.itemsize
    short = InputError(
        f"{path} is cut short or became shorter while it was read: {end:,} bytes are needed. Do not change it while "
        "it is used, or copy it again."
    )
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size < end:
                raise short
            values = torch.empty(count, dtype=dtype)
            rest = memoryview(values.view(torch.uint8).numpy().data)
            file.seek(start)
            # A read returns at most 2 GiB.
            while rest:
                size = file.readinto(rest)
                if not size:
                    raise short
                rest = rest[size:]
    except OSError as error:
        raise InputError(f"{path} cannot be read any more: {error}") from None
    return values


def from_array(array: np.ndarray, origin: str) -> LazyTensor:
    """A LazyTensor over values that are already in memory."""
    tensor = torch.from_numpy(array)
    return LazyTensor(tuple(tensor.shape), tensor.dtype, origin, tensor.clone)
