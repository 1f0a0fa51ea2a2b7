"""Device memory that is kept from call to call: one buffer for each tensor of an engine."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from ..errors import EnvironmentLack
from .child import tool_error
from .engine_error import EngineError

# TensorRT aligns to so many bytes; an empty tensor has an address too.
ALIGNMENT = 256
# What Cuda says of it, beside its other failures.
NO_MEMORY = "too little free memory"


class Allocator(Protocol):
    """The part of Cuda that makes and ends buffers."""

    def malloc(self, size: int) -> int: ...

    def free(self, pointer: int) -> None: ...


class Buffers:
    """Device buffers by key, each as large as the largest tensor it had to hold."""

    def __init__(self, cuda: Allocator) -> None:
        self._cuda = cuda
        self._held: dict[Any, tuple[int, int]] = {}

    def address(self, key: Any, size: int, grows: bool = True) -> int:
        """The address of a buffer of at least `size` bytes, never null; what it held is lost where it had to grow.

        grows sets half as much again aside where a buffer was too small, for what will grow further.
        """
        pointer, capacity = self._held.get(key, (0, 0))
        if pointer and size <= capacity:
            return pointer
        if pointer:
            # Before the new one is made: both need not fit.
            del self._held[key]
            self._cuda.free(pointer)
        # A cache grows a column at each step: the spare half keeps that from being an allocation each time.
        capacity = max(size, capacity * 3 // 2 if grows else 0, ALIGNMENT)
        pointer = self._cuda.malloc(capacity)
        self._held[key] = pointer, capacity
        return pointer

    def capacity(self, key: Any) -> int:
        """Bytes of a buffer; 0 where there is none yet."""
        return self._held.get(key, (0, 0))[1]

    def free(self) -> None:
        """Give all buffers back, as far as the device takes them: after some failures it refuses every call, and what
        is then to be told is the first."""
        while self._held:
            _, (pointer, _) = self._held.popitem()
            with suppress(EngineError):
                self._cuda.free(pointer)


def laid_out(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Where tensors of so many bytes lie in a buffer that holds them all, and the bytes of that."""
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += aligned(size)
    return offsets, end


def aligned(size: int) -> int:
    """What a tensor of so many bytes takes in such a buffer."""
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT


@contextmanager
def memory_said(component: str, rows: int) -> Iterator[None]:
    """Failures of the device as errors for the user; EnvironmentLack says what to do where its memory is too little for
    a component on so many rows."""
    try:
        yield
    except EngineError as error:
        if NO_MEMORY not in str(error):
            raise tool_error(error) from error
        raise EnvironmentLack(
            f"{component} cannot run on {rows} rows at once: {error} Give it fewer at a time (--batch), or shorter "
            "ones, or end other programs."
        ) from error
