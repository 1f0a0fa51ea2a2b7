"""Files written by torch.save and torch.jit.save, with tensors that stay in the file."""

import math
import re
import struct
import zipfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import EnvironmentLack, InputError
from .lazy import LazyTensor, read_values
from .unpickler import SCRIPT_MODULE, Inert, Storage, unpickle

LARGEST_PICKLE = 64 << 20
SMALLEST_LIMIT = 1 << 20
DEEPEST_MODULE = 64
MOST_MODULES = 100_000

ZIP_START = b"PK\x03\x04"
LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
LOCAL_HEADER = 30
ENCRYPTED = 1
AGAIN = "Download or copy it again."


def read_torch_file(path: Path) -> Any:
    """The object in a torch.save file or a TorchScript archive: tensors are LazyTensors, modules and other classes
    are `Inert` records. Opening reads the list of tensors only, and never runs code of the file.

    InputError where the file is missing, cut short, not of this format, of PyTorch's format before 1.6, compressed,
    asks for a function that no checkpoint needs, or describes tensors that are not inside it.
    """
    _recognise(path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, struct.error):
        raise InputError(f"{path} is cut short or damaged: the table at its end is missing. {AGAIN}") from None
    with archive, path.open("rb", buffering=0) as file:
        contents = _Contents(path, archive, _root(path, archive), file, path.stat().st_size)
        if contents.small("byteorder", default=b"little") != b"little":
            raise InputError(f"{path} was written on a big-endian machine. Load it there and save it as safetensors.")
        return unpickle(contents.small("data.pkl"), str(path), contents.tensor)


def flatten_module(obj: Any, where: str = "the checkpoint") -> dict[str, LazyTensor]:
    """Tensors by dotted name: of a TorchScript module with its submodules, or of a state dict (also one under the key
    'state_dict'). Values that are no tensors are left out. InputError where no tensor is left."""
    if isinstance(obj, Inert) and obj.origin.startswith(SCRIPT_MODULE):
        found = _module_tensors(obj, where)
    elif isinstance(obj, dict):
        inner = obj.get("state_dict")
        items = inner if isinstance(inner, dict) else obj
        found = {key: value for key, value in items.items() if isinstance(key, str) and isinstance(value, LazyTensor)}
    else:
        kind = obj.origin if isinstance(obj, Inert) else type(obj).__name__
        raise InputError(f"{where} holds a {kind}, expected a module or a dict of tensors.")
    if not found:
        raise InputError(f"{where} holds no tensors by name: expected a module or a state dict.")
    return {name: replace(tensor, origin=f"{tensor.origin}: {name}") for name, tensor in found.items()}


def _module_tensors(module: Inert, where: str) -> dict[str, LazyTensor]:
    found: dict[str, LazyTensor] = {}
    waiting = [("", 0, module)]
    seen = 0
    while waiting:
        prefix, depth, parent = waiting.pop()
        seen += 1
        if depth > DEEPEST_MODULE or seen > MOST_MODULES:
            raise InputError(f"{where}: its modules contain each other without end. {AGAIN}")
        for name, value in parent.state.items():
            if isinstance(value, LazyTensor):
                found[prefix + name] = value
            elif isinstance(value, Inert) and value.origin.startswith(SCRIPT_MODULE):
                waiting.append((f"{prefix}{name}.", depth + 1, value))
    return found


def _recognise(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a PyTorch file.")
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    try:
        with path.open("rb", buffering=0) as file:
            start = file.read(256)
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be read: {error.strerror}. Check its permissions.") from None
    if start.startswith(ZIP_START):
        return
    if not start:
        raise InputError(f"{path} is empty. {AGAIN}")
    if start.startswith(LEGACY_START):
        raise InputError(
            f"{path} is in PyTorch's format before 1.6, where nothing can be read without running its code. If you "
            "trust it, load it and save it again with a current PyTorch: torch.save(torch.load(old), new)."
        )
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git LFS pointer, not the file itself. Run:  git lfs pull")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise InputError(f"{path} is a web page, not a checkpoint: the download link led to a page. {AGAIN}")
    if start[8:9] == b"{":
        raise InputError(f"{path} looks like a safetensors file, expected a PyTorch file. Give the folder it lies in.")
    raise InputError(f"{path} is not a PyTorch file: it does not start like one. {AGAIN}")


def _root(path: Path, archive: zipfile.ZipFile) -> str:
    roots = {found[1] for name in archive.namelist() if (found := re.fullmatch(r"([^/]+/)data\.pkl", name))}
    if len(roots) != 1:
        raise InputError(f"{path} is a zip file, but not one of PyTorch's: data.pkl is not in its one folder.")
    return roots.pop()


@dataclass(frozen=True)
class _Contents:
    path: Path
    archive: zipfile.ZipFile
    root: str
    file: BinaryIO
    size: int

    def small(self, name: str, default: bytes | None = None) -> bytes:
        full = self.root + name
        if full not in self.archive.NameToInfo and default is not None:
            return default
        start, length = self.entry(full)
        if length > LARGEST_PICKLE:
            raise InputError(f"{self.path}: {full} has {length >> 20} MiB, more than any list of tensors needs.")
        self.file.seek(start)
        return _exactly(self.file, length, self.path)

    def entry(self, name: str) -> tuple[int, int]:
        """Where the bytes of an entry start in the file, and how many they are."""
        info = self.archive.NameToInfo.get(name)
        if info is None:
            raise InputError(f"{self.path} is damaged: it lacks the entry {name}. {AGAIN}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ENCRYPTED:
            raise InputError(
                f"{self.path}: the entry {name} is compressed or encrypted, which PyTorch never writes: a zip tool "
                "packed the file again. Take the original file."
            )
        inside = 0 <= info.header_offset <= self.size - LOCAL_HEADER
        self.file.seek(info.header_offset if inside else 0)
        header = _exactly(self.file, LOCAL_HEADER, self.path)
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = info.header_offset + LOCAL_HEADER + name_length + extra_length
        if not inside or not header.startswith(ZIP_START) or start + info.file_size > self.size:
            raise InputError(f"{self.path} is damaged: the entry {name} is not inside the file. {AGAIN}")
        return start, info.file_size

    def tensor(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> LazyTensor:
        start, length = self.entry(f"{self.root}data/{storage.key}")
        width = storage.dtype.itemsize
        empty = 0 in shape
        span = 0 if empty else 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if storage.length * width > length or offset + span > storage.length:
            raise InputError(
                f"{self.path} is damaged: a tensor of shape {list(shape)} at element {offset} needs more than the "
                f"{min(storage.length, length // width)} elements of its storage {storage.key}. {AGAIN}"
            )
        load = partial(_load, self.path, start + offset * width, span, shape, strides, storage.dtype)
        first = start + offset * width
        rows = partial(_load_rows, self.path, first, shape, storage.dtype) if strides == _row_major(shape) else None
        tensor = LazyTensor(shape, storage.dtype, str(self.path), load, rows)
        # Stride 0 repeats elements without storing them: without a limit a few bytes could ask for terabytes.
        if tensor.nbytes > max(self.size, SMALLEST_LIMIT):
            raise InputError(
                f"{self.path} is damaged: a tensor of shape {list(shape)} is larger than the file. {AGAIN}"
            )
        return tensor


def _load(
    path: Path, start: int, span: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    return read_values(path, start, span, dtype).as_strided(shape, strides).contiguous()


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _load_rows(path: Path, start: int, shape: tuple[int, ...], dtype: torch.dtype, first: int, last: int) -> Tensor:
    row = math.prod(shape[1:])
    values = read_values(path, start + first * row * dtype.itemsize, (last - first) * row, dtype)
    return values.view(last - first, *shape[1:])


def _exactly(file: BinaryIO, length: int, path: Path) -> bytes:
    parts = []
    while length:
        part = file.read(length)
        if not part:
            raise InputError(f"{path} is cut short. {AGAIN}")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
