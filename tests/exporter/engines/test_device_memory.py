"""What is set aside on the device: as much as asked for, and more only for what grows."""

import pytest
from memvp_export.exporter.engines.device_memory import Buffers
from memvp_export.exporter.engines.engine_error import EngineError


class Memory:
    """Sizes of what is held, by address."""

    def __init__(self) -> None:
        self.live: dict[int, int] = {}
        self.made = 0

    def malloc(self, size: int) -> int:
        self.made += 1
        self.live[self.made] = size
        return self.made

    def free(self, pointer: int) -> None:
        del self.live[pointer]


@pytest.fixture
def memory() -> Memory:
    return Memory()


def test_a_tensor_that_grows_is_not_allocated_at_every_step(memory: Memory) -> None:
    buffers = Buffers(memory)
    for columns in range(1, 200):
        buffers.address("cache", 1000 * columns)
    assert memory.made < 20 and next(iter(memory.live.values())) >= 199_000
    buffers.free()
    assert not memory.live


def test_activations_get_what_they_need_and_no_more(memory: Memory) -> None:
    buffers = Buffers(memory)
    first = buffers.address("activations", 1000, grows=False)
    # Less than half as much again: the engine of the next component.
    second = buffers.address("activations", 1200, grows=False)
    assert first != second and list(memory.live.values()) == [1200]
    assert buffers.address("activations", 900, grows=False) == second
    assert (buffers.capacity("activations"), buffers.capacity("others")) == (1200, 0)


def test_a_buffer_that_is_refused_keeps_no_other() -> None:
    class Broken(Memory):
        def free(self, pointer: int) -> None:
            if pointer == 2:
                raise EngineError("cudaFree failed", "environment")
            super().free(pointer)

    memory = Broken()
    buffers = Buffers(memory)
    for name in ("a", "b", "c"):
        buffers.address(name, 1000)
    buffers.free()
    assert list(memory.live) == [2]


def test_an_empty_tensor_has_an_address(memory: Memory) -> None:
    assert Buffers(memory).address("past", 0) and list(memory.live.values()) == [256]
