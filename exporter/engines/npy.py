"""Arrays as .npy files without NumPy."""

from __future__ import annotations

import ast
import struct
from collections.abc import Iterable
from pathlib import Path

from .engine_error import EngineError

# NumPy has no bfloat16: such tensors are <name>.bf16.npy with the bits as uint16.
_TYPES = {
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "int64": "<i8",
    "int32": "<i4",
    "int8": "|i1",
    "uint8": "|u1",
    "bool": "|b1",
}


def item_size(dtype: str) -> int:
    """Bytes of one element."""
    return int(_TYPES[dtype][2:])


def product(shape: Iterable[int]) -> int:
    """How many elements a shape has."""
    result = 1
    for size in shape:
        result *= size
    return result


def npy_path(folder: str, name: str, dtype: str) -> Path:
    """Where the array of a tensor lies."""
    return Path(folder) / (name + (".bf16.npy" if dtype == "bfloat16" else ".npy"))


def read_npy(path: Path, dtype: str) -> tuple[tuple[int, ...], bytes]:
    """Shape and bytes of a .npy file in C order whose type is `dtype`; EngineError where it is anything else.

    Integers of 64 bits may stand for such of 32, which TensorRT 8 has in their place.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}", "input") from error
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        raise EngineError(f"{path} is not a .npy file.", "input")
    wide = data[6] > 1
    length = struct.unpack_from("<I" if wide else "<H", data, 8)[0]
    start = (12 if wide else 10) + length
    try:
        header = ast.literal_eval(data[start - length : start].decode("latin1").strip())
        shape, kind, fortran = tuple(header["shape"]), header["descr"], header["fortran_order"]
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise EngineError(f"{path} has a damaged .npy header.", "input") from error
    wanted = _TYPES[dtype]
    if (kind, wanted) == ("<i8", "<i4") and not fortran and len(data) - start == product(shape) * 8:
        return shape, _narrowed(path, data[start:])
    if kind != wanted or fortran:
        order = " in Fortran order" if fortran else ""
        raise EngineError(f"{path} holds {kind}{order}, the engine takes {wanted}.", "input")
    if len(data) - start != product(shape) * item_size(dtype):
        raise EngineError(f"{path} is cut short: {list(shape)} of {kind} do not fit its size.", "input")
    return shape, data[start:]


def _narrowed(path: Path, data: bytes) -> bytes:
    numbers = struct.unpack(f"<{len(data) // 8}q", data)
    try:
        return struct.pack(f"<{len(numbers)}i", *numbers)
    except struct.error as error:
        raise EngineError(f"{path} holds numbers beyond 32 bits, which the engine takes.", "input") from error


def write_npy(path: Path, shape: tuple[int, ...], data: bytes | bytearray, dtype: str) -> None:
    """Write an array in C order as .npy, format version 1."""
    header = repr({"descr": _TYPES[dtype], "fortran_order": False, "shape": tuple(shape)})
    header += " " * (-(len(header) + 11) % 64) + "\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode("latin1")
    path.write_bytes(start + bytes(data))
