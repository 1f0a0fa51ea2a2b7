"""The values of a traced graph, streamed from the checkpoint into `<graph>.onnx.data`.

Each tensor is read, checked, converted, hashed and written once; memory holds one of them and one block of its
converted form.
"""

import errno
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir
import torch
from torch import Tensor

from ..checkpoints.lazy import LazyTensor
from ..errors import EnvironmentLack, InputError
from ..keep_fp32 import module_of
from .passes import TRANSPOSED

# A mapped file is used in place from page boundaries.
ALIGNMENT = 4096
# Larger than any matrix of a layer up to 13B: torch transposes a whole matrix three times as fast as a slice of one.
BLOCK_BYTES = 160 << 20
_TORCH_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
}


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written: size in bytes and SHA-256, known without reading it again."""

    size: int
    sha256: str


def data_size(model: ir.Model) -> int:
    """Bytes that `write_weights` will write for this traced graph."""
    return sum(_padded(math.prod(_shape(value)) * _dtype(value).itemsize) for value in _pending(model))


def write_weights(
    model: ir.Model,
    tensors: Mapping[str, LazyTensor],
    data: Path,
    advance: Callable[[int], None] = lambda size: None,
) -> WrittenFile:
    """Write the value of every open initializer into `data` and point the model at it.

    tensors are by official name. Raises InputError where a weight is not finite, or does not fit the
    graph's type; EnvironmentLack where the disk is full. advance is told the bytes written.
    """
    try:
        with data.open("wb") as file, _HashingWriter(file, advance) as writer:
            for value in _pending(model):
                _write(value, tensors[value.name], writer, data)  # type: ignore[index]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentLack(f"the disk is full: {data.parent} needs {data_size(model):,} bytes more") from error
        raise
    return WrittenFile(writer.size, writer.hash.hexdigest())


def _pending(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.initializers.values() if value.const_value is None]


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(int(dim) for dim in value.shape)  # type: ignore[arg-type]


def _dtype(value: ir.Value) -> torch.dtype:
    assert value.dtype is not None
    return _TORCH_DTYPES[value.dtype]


def _write(value: ir.Value, tensor: LazyTensor, writer: "_HashingWriter", data: Path) -> None:
    transposed = TRANSPOSED in value.metadata_props
    shape = _shape(value)
    if tensor.shape != (shape[::-1] if transposed else shape):
        raise AssertionError(f"{value.name}: the graph has {shape}, the checkpoint {tensor.shape}")
    offset = writer.size
    loaded = tensor.load()
    _check_finite(loaded, tensor.origin, "holds NaN or infinite values: the checkpoint is damaged")
    dtype = _dtype(value)
    for block in _blocks(loaded, transposed):
        converted = block.to(dtype).contiguous()
        if dtype != loaded.dtype:
            remedy = f"export with --precision bf16 or fp32, or with --keep-fp32 '{module_of(value.name or '')}'"
            _check_finite(converted, tensor.origin, f"does not fit {dtype}; {remedy}")
        writer.write(converted)
    length = writer.size - offset
    writer.pad()
    value.const_value = ir.ExternalTensor(
        data.name,
        offset,
        length,
        value.dtype,  # type: ignore[arg-type]
        shape=ir.Shape(shape),
        name=value.name or "",
        metadata_props={TRANSPOSED: "1"} if transposed else None,
        base_dir=str(data.parent),
    )


def _check_finite(values: Tensor, origin: str, problem: str) -> None:
    if values.numel():
        # One pass, and NaN comes through both ends: three times as fast as isfinite.
        lowest, highest = torch.aminmax(values)
        if not (torch.isfinite(lowest) and torch.isfinite(highest)):
            raise InputError(f"{origin} {problem}")


def _blocks(tensor: Tensor, transposed: bool) -> Iterator[Tensor]:
    """The tensor, or its transpose, in pieces of consecutive rows."""
    if tensor.dim() < 2:
        yield tensor
        return
    rows = tensor.t() if transposed else tensor
    step = max(1, BLOCK_BYTES // max(1, math.prod(rows.shape[1:]) * rows.element_size()))
    for start in range(0, rows.shape[0], step):
        yield rows[start : start + step]


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class _HashingWriter:
    """Writes and hashes on two other threads while the next block is read; holds at most two blocks."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self.file, self.advance = file, advance
        self.size = 0
        self.hash = hashlib.sha256()
        self._pool = ThreadPoolExecutor(2)
        self._busy: list[Future[object]] = []

    def __enter__(self) -> "_HashingWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._wait()
        finally:
            self._pool.shutdown()

    def write(self, block: Tensor) -> None:
        self._submit(block.reshape(-1).view(torch.uint8).numpy().data)

    def pad(self) -> None:
        self._submit(memoryview(bytes(_padded(self.size) - self.size)))

    def _submit(self, data: memoryview) -> None:
        self._wait()
        self.size += len(data)
        self._busy = [self._pool.submit(self.file.write, data), self._pool.submit(self.hash.update, data)]
        self.advance(len(data))

    def _wait(self) -> None:
        busy, self._busy = self._busy, []
        for future in busy:
            future.result()
