"""Weights in a published graph's data file: brought beside the lowered graph and read in blocks; new ones written."""

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import ml_dtypes
import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from ...errors import InputError
from ...progress import Progress

DTYPES: dict[int, np.dtype] = {
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
    onnx.TensorProto.FLOAT16: np.dtype(np.float16),
    onnx.TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
# As in published data files: a mapped file is used in place from page boundaries.
_ALIGNMENT = 4096
_BLOCK_BYTES = 16 << 20


def bring_data(graph: onnx.GraphProto, source: Path, folder: Path, copy: bool, progress: Progress) -> None:
    """Put the data files that the graph's weights lie in, beside the file `source`, into `folder` too: as symbolic
    links, or as copies. Raises InputError where a weight lies anywhere else."""
    for name in sorted({location for tensor in graph.initializer if (location := _location(tensor, source))}):
        data, target = source.with_name(name), folder / name
        target.unlink(missing_ok=True)
        if not copy:
            try:
                # Not a hard link: while a file has two names, onnx refuses to read it under either.
                target.symlink_to(data.resolve())
                continue
            except OSError:
                progress.note(f"{folder} cannot hold links: {name} ({data.stat().st_size:,} bytes) is copied.")
        with progress.stage(f"copy {name}"):
            shutil.copyfile(data, target)


def read_rows(tensor: onnx.TensorProto, source: Path) -> Iterator[np.ndarray]:
    """A weight of the graph `source` as [first dimension, all others], some rows at a time, in its own type; memory
    holds one block.

    Raises InputError where its data file is shorter than the graph says.
    """
    rows, columns = tensor.dims[0], math.prod(tensor.dims[1:])
    dtype, location = DTYPES[tensor.data_type], _location(tensor, source)
    if location is None:
        yield numpy_helper.to_array(tensor).astype(dtype, copy=False).reshape(rows, columns)
        return
    step = max(1, _BLOCK_BYTES // (columns * dtype.itemsize))
    path = source.with_name(location)
    # Not mapped: the pages of a mapped file count as memory of this process.
    with path.open("rb") as file:
        file.seek(external_data_helper.ExternalDataInfo(tensor).offset or 0)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            block = np.fromfile(file, dtype, count * columns)
            if block.size < count * columns:
                raise InputError(f"{path} is cut short: {tensor.name} is not whole. Copy the bundle again.")
            yield block.reshape(count, columns)


def _location(tensor: onnx.TensorProto, source: Path) -> str | None:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    location: str = external_data_helper.ExternalDataInfo(tensor).location
    if Path(location).name != location:
        raise InputError(f"{source}: {tensor.name} is said to lie in {location!r}, which is not beside the graph.")
    return location


class NewWeights:
    """Weights that a lowering makes, appended to one data file; the file is made when the first one comes."""

    def __init__(self, path: Path, source: Path) -> None:
        """path is the new data file; source, the published graph whose weights the new ones are made of."""
        self.source, self._path = source, path
        self._file: BinaryIO | None = None

    def __enter__(self) -> "NewWeights":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def add(
        self, name: str, parts: Sequence[tuple[onnx.TensorProto, float]], rows: int, data_type: int | None = None
    ) -> onnx.TensorProto:
        """Write one weight: the rows of all parts below one another, each times its factor, then zeros up to `rows`.

        Its type is data_type, by default the first part's. Returns its initializer. Raises InputError where a product
        does not fit the type.
        """
        self._file = self._file or self._path.open("wb")
        data_type, columns = data_type or parts[0][0].data_type, parts[0][0].dims[1]
        offset = -(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT
        self._file.seek(offset)
        written = 0
        for tensor, factor in parts:
            for block in read_rows(tensor, self.source):
                typed = block.astype(DTYPES[data_type], copy=False)
                self._file.write(_scaled(typed, factor, tensor.name).view(np.uint8).data)
                written += len(block)
        self._file.write(bytes((rows - written) * columns * DTYPES[data_type].itemsize))
        made = onnx.TensorProto(name=name, data_type=data_type, dims=(rows, columns))
        made.data_location = onnx.TensorProto.EXTERNAL
        length = self._file.tell() - offset
        for key, value in (("location", self._path.name), ("offset", str(offset)), ("length", str(length))):
            made.external_data.add(key=key, value=value)
        return made


def _scaled(block: np.ndarray, factor: float, name: str) -> np.ndarray:
    if factor == 1.0:
        return block
    with np.errstate(over="ignore"):
        scaled = (block.astype(np.float32) * np.float32(factor)).astype(block.dtype)
    if not np.isfinite(scaled.astype(np.float32)).all():
        raise InputError(f"{name} times the memory's scale {factor:.7g} does not fit {block.dtype}.")
    return scaled
