"""What the C interface refuses, and its workspace."""

import ctypes

import numpy as np
import pytest
from memvp_export.plugins.kernels import interface

GOOD = {"batch": 2, "tokens": 3, "width": 16, "rows": 3, "table_rows": 5, "visual_batch": 2, "type": 1, "activation": 1}


def problem(**changes: int) -> interface.Problem:
    return interface.Problem(**(GOOD | changes), scale=1.0)


H200 = (90, 4, 233472, 232448)


def status(emulator, problem, pointers=None, size=None, device: tuple[int, ...] = (0, *H200)) -> int:
    """With tensors that are large enough, and the workspace that the query asks for.

    A device of which nothing but its number is given cannot be asked for anything.
    """
    emulator.library.emulatorStart(0)
    (emulator.library.emulatorDevice if device[1:] else emulator.library.emulatorLoseDevice)(*device)
    store = np.zeros((6, 4096), np.float16)
    workspace = np.zeros(interface.workspace_bytes(emulator.library, problem) + 16, np.uint8)
    aligned = workspace.ctypes.data + -workspace.ctypes.data % 16
    used = pointers or [*(store.ctypes.data + i * store.strides[0] for i in range(6)), aligned]
    return emulator.library.memvpVisualMemoryFfn(
        ctypes.byref(problem), *used, workspace.size if size is None else size, None
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 0},
        {"batch": -1, "visual_batch": -1},
        {"tokens": 0},
        {"width": 0},
        {"rows": -1},
        {"rows": 6},
        {"table_rows": 0, "rows": 0},
        {"visual_batch": 3},
        {"visual_batch": 0},
        {"type": 3},
        {"type": -1},
        {"activation": 4},
        {"activation": -1},
        {"batch": 1 << 20, "visual_batch": 1 << 20, "tokens": 1 << 20},
    ],
    ids=str,
)
def test_a_problem_that_is_none_is_refused(emulator, changes) -> None:
    assert status(emulator, problem()) == 0
    assert status(emulator, problem(**changes)) == 1
    assert interface.workspace_bytes(emulator.library, problem(**changes)) == 0
    assert emulator.launches() == []


@pytest.mark.parametrize("missing", range(7))
def test_a_null_pointer_is_refused(emulator, missing) -> None:
    pointers = [4096] * 7
    pointers[missing] = 0
    assert status(emulator, problem(), pointers) == 2
    assert emulator.launches() == []


def test_no_visual_rows_need_no_visual_pointer(emulator, make_case) -> None:
    case = make_case(2, 3, 16, 0, 5)
    assert case.tensors()[2].size == 0
    emulator.run(case)
    assert status(emulator, problem(rows=0), [4096, 4096, 0, 4096, 4096, 4096, 4096], 0) == 3


def test_an_unaligned_workspace_is_refused(emulator) -> None:
    assert status(emulator, problem(), [4096] * 6 + [4097]) == 2


def test_a_small_workspace_is_refused(emulator) -> None:
    needed = interface.workspace_bytes(emulator.library, problem())
    assert status(emulator, problem(), size=needed - 1) == 3
    assert status(emulator, problem(), size=needed) == 0


def test_an_old_gpu_is_refused(emulator) -> None:
    assert status(emulator, problem(), device=(9, 70, 80, 98304, 98304)) == 4
    assert status(emulator, problem()) == 0


@pytest.mark.parametrize("type_", interface.TYPES.values())
@pytest.mark.parametrize(("width", "rows", "table_rows"), [(4096, 256, 320), (768, 36, 37), (51, 0, 1), (64, 9, 5000)])
def test_the_workspace_of_the_largest_problem_serves_the_smaller_ones(emulator, type_, width, rows, table_rows) -> None:
    def needed(batch: int, tokens: int, visual_batch: int) -> int:
        sizes = (batch, tokens, width, rows, table_rows, visual_batch, type_, 0)
        return interface.workspace_bytes(emulator.library, interface.Problem(*sizes, 1.0))

    sizes = [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 512]
    for i, batch in enumerate(sizes):
        for j, tokens in enumerate(sizes):
            here = needed(batch, tokens, batch)
            assert here >= max(needed(sizes[max(0, i - 1)], tokens, 1), needed(batch, sizes[max(0, j - 1)], 1))


def test_tokens_of_a_long_prompt_take_workspace_for_their_activations_alone(emulator) -> None:
    def needed(tokens: int) -> int:
        return interface.workspace_bytes(emulator.library, problem(tokens=tokens, width=4096, rows=256, table_rows=320))

    assert needed(2048) - needed(1024) == GOOD["batch"] * 1024 * 2 * 320


@pytest.mark.parametrize("tokens", [1, 3, 8, 9, 40])
@pytest.mark.parametrize("batch", [1, 4, 5, 33])
def test_no_split_outgrows_its_region_of_the_workspace(emulator, make_case, batch, tokens) -> None:
    # A GPU with many multiprocessors splits the most; guard bands lie behind the workspace.
    case = make_case(batch, tokens, 264, 20, 23, device="many")
    assert np.isfinite(emulator.run(case).astype(np.float32)).all()


def test_shared_memory_that_is_not_granted_is_reported(emulator) -> None:
    # The library remembers what a device grants; this one then grants less than the row pass asks for.
    assert status(emulator, problem(tokens=20), device=(8, *H200)) == 0
    assert status(emulator, problem(), device=(8, 90, 4, 4096, 4096)) == 5
    assert emulator.library.memvpLastCudaError() == b"an argument that CUDA would refuse"


def test_a_device_that_could_not_be_read_is_read_again(emulator) -> None:
    assert status(emulator, problem(), device=(11,)) == 5
    assert emulator.library.memvpLastCudaError() == b"a device that is not there"
    assert status(emulator, problem(), device=(11, *H200)) == 0
    assert emulator.library.memvpLastCudaError() == b"no error"


def test_every_status_has_words(emulator) -> None:
    words = {emulator.library.memvpStatusString(code) for code in range(7)}
    assert len(words) == 7 and b"unknown" in emulator.library.memvpStatusString(6)
