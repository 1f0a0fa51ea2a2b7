"""Tensors on the device that take the place of arrays among the inputs and outputs of a session."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from .device_memory import Allocator, Buffers, laid_out


class Memory(ABC):
    """What holds tensors on the device until nothing refers to it, or `free` is called."""

    def __init__(self, cuda: Allocator) -> None:
        """Nothing is held yet."""
        self._buffers = Buffers(cuda)
        self.free = weakref.finalize(self, self._buffers.free)

    @abstractmethod
    def addresses(self) -> dict[str, int]:
        """Of the tensors held, by name."""


class OnDevice(NamedTuple):
    """A tensor, under the name of the input or output that it is. Its memory is held as long as this refers to it.

    call numbers the calls that wrote into the memory of a cache: what a later one overwrote is told by it. A step makes
    some hundred of these.
    """

    memory: Memory
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    call: int = 0


class Uploader(Allocator, Protocol):
    """The part of Cuda that fills buffers."""

    def upload(self, pointer: int, host: int, size: int, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None: ...


class Constants(Memory):
    """Inputs that were copied to the device once, for many calls."""

    def __init__(self, cuda: Uploader, stream: int, arrays: Mapping[str, np.ndarray]) -> None:
        """arrays must be contiguous. Raises EngineError where they do not fit into the device's memory."""
        super().__init__(cuda)
        offsets, size = laid_out({name: array.nbytes for name, array in arrays.items()})
        start = self._buffers.address("constants", size)
        self._addresses = {name: start + offset for name, offset in offsets.items()}
        for name, array in arrays.items():
            cuda.upload(self._addresses[name], array.ctypes.data, array.nbytes, stream)
        cuda.synchronize(stream)

    def addresses(self) -> dict[str, int]:
        """See Memory."""
        return self._addresses
