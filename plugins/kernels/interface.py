"""The kernels' C interface (memvp_kernels.h) through ctypes, for whatever library exports it."""

import ctypes
from pathlib import Path

TYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
ACTIVATIONS = {"relu": 0, "silu": 1, "gelu": 2, "quick_gelu": 3}
_CUDA_ERROR = 5

SOURCES = sorted(Path(__file__).parent.glob("*.cu"))


class Problem(ctypes.Structure):
    """MemvpVisualMemory: sizes B, T, d, v, p, samples of visual, a value of TYPES and of ACTIVATIONS, and the scale."""

    _fields_ = (
        ("batch", ctypes.c_int32),
        ("tokens", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("table_rows", ctypes.c_int32),
        ("visual_batch", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


def open_library(path: Path) -> ctypes.CDLL:
    """The library with the types of its functions declared. Raises OSError where it cannot be loaded."""
    library = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.memvpVisualMemoryFfnWorkspace.argtypes = [ctypes.POINTER(Problem)]
    library.memvpVisualMemoryFfnWorkspace.restype = size
    library.memvpVisualMemoryFfn.argtypes = [ctypes.POINTER(Problem), *[pointer] * 7, size, pointer]
    library.memvpVisualMemoryFfn.restype = ctypes.c_int32
    library.memvpStatusString.argtypes = [ctypes.c_int32]
    library.memvpStatusString.restype = ctypes.c_char_p
    library.memvpLastCudaError.argtypes = []
    library.memvpLastCudaError.restype = ctypes.c_char_p
    return library


def workspace_bytes(library: ctypes.CDLL, problem: Problem) -> int:
    """What visual_memory_ffn needs for the problem and every one of smaller batch or fewer tokens; 0 for none."""
    return int(library.memvpVisualMemoryFfnWorkspace(ctypes.byref(problem)))


def visual_memory_ffn(
    library: ctypes.CDLL,
    problem: Problem,
    hidden: int,
    ffn: int,
    visual: int,
    key_positions: int,
    value_positions: int,
    output: int,
    workspace: int,
    workspace_size: int,
    stream: int = 0,
) -> None:
    """Enqueue the operator on a CUDA stream. Tensors are addresses on the device, 0 is null; sizes are bytes.

    Raises RuntimeError with the library's reason where nothing, or not everything, was enqueued.
    """
    pointers = (hidden, ffn, visual, key_positions, value_positions, output, workspace)
    status = library.memvpVisualMemoryFfn(ctypes.byref(problem), *pointers, workspace_size, stream)
    if status == _CUDA_ERROR:
        raise RuntimeError(f"a CUDA call failed: {library.memvpLastCudaError().decode()}")
    if status:
        raise RuntimeError(library.memvpStatusString(status).decode())
