"""The data file of a quantized graph: new tensors and copies of published ones, streamed, one after another."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx
from onnx import external_data_helper

from ..exporter.errors import InputError
from ..exporter.graphs.lowering.stored import DTYPES, read_rows
from .modes import Format

# As in published data files: a mapped file is used in place from page boundaries.
_ALIGNMENT = 4096
_BLOCK = 16 << 20
# Smaller tensors lie in the graph itself, as the tracer leaves them.
_INLINE_BYTES = 1024


def read_matrix(tensor: onnx.TensorProto, source: Path) -> np.ndarray:
    """A stored weight of the graph `source` in float32, [first dimension, all others]."""
    return np.concatenate([block.astype(np.float32) for block in read_rows(tensor, source)])


def read_vector(tensor: onnx.TensorProto, source: Path) -> np.ndarray:
    """A stored vector in float32, [length]."""
    return read_matrix(tensor, source)[:, 0]


class WeightsFile:
    """Appends tensors to `path`; each becomes an initializer that says where it lies. A context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")

    def __enter__(self) -> "WeightsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, values: np.ndarray, number: Format) -> onnx.TensorProto:
        """Write float32 numbers of a format's grid in it; 4-bit ones two a byte, the first below."""
        if number.bits == 4:
            nibbles = values.astype(np.int8).ravel().view(np.uint8) & 0xF
            nibbles = np.pad(nibbles, (0, nibbles.size % 2))
            stored = nibbles[::2] | nibbles[1::2] << 4
        else:
            stored = values.astype(number.dtype).view(np.uint8)
        made = onnx.TensorProto(name=name, data_type=number.onnx_type, dims=values.shape)
        return self._place(made, [np.ascontiguousarray(stored).data])

    def add_floats(self, name: str, values: np.ndarray, data_type: int) -> onnx.TensorProto:
        """Write float32 values in a graph's floating type; a few go into the graph itself. Raises InputError where one
        does not fit it."""
        with np.errstate(over="ignore"):
            held = values.astype(DTYPES[data_type])
        if not np.isfinite(held.astype(np.float32)).all():
            raise InputError(f"{name} does not fit {held.dtype}: give --rest bf16 or fp32.")
        made = onnx.TensorProto(name=name, data_type=data_type, dims=values.shape)
        if held.nbytes <= _INLINE_BYTES:
            made.raw_data = held.tobytes()
            return made
        return self._place(made, [np.ascontiguousarray(held).view(np.uint8).data])

    def copy(self, tensor: onnx.TensorProto, source: Path) -> onnx.TensorProto:
        """A published tensor of the graph `source`, its bytes as they are."""
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return tensor
        made = onnx.TensorProto()
        made.CopyFrom(tensor)
        del made.external_data[:]
        return self._place(made, _bytes_of(tensor, source))

    def _place(self, made: onnx.TensorProto, blocks: Iterable[memoryview]) -> onnx.TensorProto:
        offset = -(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT
        self._file.seek(offset)
        for block in blocks:
            self._file.write(block)
        made.data_location = onnx.TensorProto.EXTERNAL
        length = self._file.tell() - offset
        for key, value in (("location", self._path.name), ("offset", str(offset)), ("length", str(length))):
            made.external_data.add(key=key, value=value)
        return made


def _bytes_of(tensor: onnx.TensorProto, source: Path) -> Iterator[memoryview]:
    info = external_data_helper.ExternalDataInfo(tensor)
    data = source.with_name(info.location)
    left = info.length
    with data.open("rb") as file:
        file.seek(info.offset or 0)
        while left:
            block = file.read(min(left, _BLOCK))
            if not block:
                raise InputError(f"{data} is cut short: {tensor.name} is not whole. Copy the bundle again.")
            left -= len(block)
            yield memoryview(block)
