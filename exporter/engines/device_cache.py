"""A cache that stays on the device from call to call, for the session that made it."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any, Protocol

import numpy as np

from ..cache import Cache, past_of
from ..errors import InputError
from .device_memory import ALIGNMENT, Allocator, aligned, memory_said
from .on_device import Memory, OnDevice

# What `Cuda.copy_rows` takes: to, its pitch, source, its pitch, width, rows.
RowCopy = tuple[int, int, int, int, int, int]
# Where the engine writes the new columns of kind delta.
_NEW = "new"


class Copier(Allocator, Protocol):
    """The part of Cuda that fills a cache."""

    def copy_rows(
        self, to: int, to_pitch: int, source: int, source_pitch: int, width: int, rows: int, stream: int
    ) -> None: ...

    def zero(self, pointer: int, size: int, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None: ...


@dataclass(frozen=True)
class Workspace:
    """What is shared by all that a session puts on the device: calls follow one another on one stream, and the lock is
    held by whoever puts something there."""

    cuda: Copier
    stream: int
    lock: threading.Lock


class DeviceCache(Cache, Memory):
    """A Cache whose past is tensors on the device.

    The call writes what it returns into other memory than that of the past, which it reads: with kind concat the whole
    cache, with delta the new columns, which are then joined behind the past in a third place, as a part of the call.
    `update` lets the places of past and whole change roles. In place, past and present are one buffer, which begins
    with zeros: what a masked slot holds is multiplied by 0, which does not help against whatever memory held.
    """

    def __init__(self, entry: Mapping[str, Any], batch: int, workspace: Workspace) -> None:
        """entry is that of an engine. Memory is taken by the first call."""
        Cache.__init__(self, entry, entry["precision"], batch)
        Memory.__init__(self, workspace.cuda)
        self.component, self._workspace = entry["component"], workspace
        # What lies before the axis that grows, such as [B,heads], and the bytes of one column behind it.
        self._rows = {name: prod(shape[: self._axis]) for name, shape in self._empty.items()}
        self._column = {
            name: prod(shape[self._axis + 1 :]) * self._dtypes[name].itemsize for name, shape in self._empty.items()
        }
        # In a buffer neighbours of one size follow one another at equal distances.
        self._alike = [
            list(names) for _, names in groupby(self.past, lambda name: (self._rows[name], self._column[name]))
        ]
        # The past lies in one of two buffers, 0 and 1; the other one is written.
        self._held, self._call = 0, 0

    def inputs(self) -> dict[str, OnDevice]:
        """See Cache.inputs."""
        return {name: OnDevice(self, name, self._shape(name, self.length), self._dtypes[name]) for name in self.past}

    def addresses(self) -> dict[str, int]:
        """See Memory. Raises EngineError where the device has too little memory."""
        return self._places(self._held, self.length)

    def bind(
        self, shapes: Mapping[str, tuple[int, ...]], columns: int, wanted: bool
    ) -> tuple[dict[str, int], tuple[RowCopy, ...]]:
        """Where a call of `columns` new columns is to write each present, by name, and the copies that have to follow
        it. shapes are those of the call's outputs; wanted: `update` is to take them in.

        Raises InputError where a shape is none of a cache of this kind, EngineError where memory is too little.
        """
        for name in self.present:
            self._check(name, shapes[name], columns)
        self._call += 1
        if self._kind == "in_place":
            return self._by_present(self.addresses()), ()
        # The first columns have nothing before them to be joined with.
        if self._kind == "concat" or not self.length:
            return self._by_present(self._places(1 - self._held, self.length + columns)), ()
        new = self._places(_NEW, columns)
        return self._by_present(new), tuple(self._joining(new, columns)) if wanted else ()

    def outputs(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, OnDevice]:
        """What the call that was bound last returns for each present."""
        return {
            name: OnDevice(self, name, shapes[name], self._dtypes[past_of(name)], self._call) for name in self.present
        }

    def _by_present(self, places: Mapping[str, int]) -> dict[str, int]:
        return {present: places[past] for past, present in zip(self.past, self.present, strict=True)}

    def _bytes(self, past: str, length: int) -> int:
        columns = self._empty[past][self._axis] if self._kind == "in_place" else length
        return self._rows[past] * columns * self._column[past]

    def _places(self, buffer: int | str, length: int) -> dict[str, int]:
        """The addresses of tensors of `length` columns in one of the buffers, by the names of the past."""
        distances = [aligned(self._bytes(names[0], length)) for names in self._alike]
        size = sum(each * len(names) for each, names in zip(distances, self._alike, strict=True))
        fresh = not self._buffers.capacity(buffer)
        start = self._buffers.address(buffer, size)
        if fresh and self._kind == "in_place":
            self._workspace.cuda.zero(start, size, self._workspace.stream)
        places: dict[str, int] = {}
        for each, names in zip(distances, self._alike, strict=True):
            places |= zip(names, range(start, start + each * len(names), each), strict=True)
            start += each * len(names)
        return places

    def _joining(self, new: Mapping[str, int], columns: int) -> list[RowCopy]:
        """The copies that put past and new columns one behind the other into the buffer that is free."""
        past, joined = self.addresses(), self._places(1 - self._held, self.length + columns)
        copies = []
        for names in self._alike:
            rows, column = self._rows[names[0]], self._column[names[0]]
            held, fresh = self.length * column, columns * column
            for places, begin, width in ((past, 0, held), (new, held, fresh)):
                # The rows of all are one row of rows where nothing lies between the tensors.
                whole = rows * width % ALIGNMENT == rows * (held + fresh) % ALIGNMENT == 0
                for name in names[:1] if whole else names:
                    many = rows * len(names) if whole else rows
                    copies.append((joined[name] + begin, held + fresh, places[name], width, width, many))
        return [copy for copy in copies if copy[-1] * copy[-2]]

    def _reorder(self, rows: np.ndarray) -> None:
        # What was returned before belongs to rows that are other ones now.
        self._call += 1
        if not self.length or np.array_equal(rows, np.arange(len(rows))):
            return
        with self._workspace.lock, memory_said(self.component, self._batch):
            if not self.free.alive:
                raise InputError("the session of this cache is closed: open another, and begin with a cache of that.")
            here, there = (self._places(buffer, self.length) for buffer in (self._held, 1 - self._held))
            # Rows that stay neighbours are one copy.
            runs = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1)
            for first, *others in self._alike:
                size = self._bytes(first, self.length)
                row, pitch = size // self._batch, aligned(size)
                for run in runs:
                    to, source = there[first] + int(run[0]) * row, here[first] + int(rows[run[0]]) * row
                    many = 1 + len(others)
                    self._workspace.cuda.copy_rows(
                        to, pitch, source, pitch, len(run) * row, many, self._workspace.stream
                    )
            # The cache may be dropped now, and to give memory back is not promised to wait for copies.
            self._workspace.cuda.synchronize(self._workspace.stream)
        self._held = 1 - self._held

    def _take(self, outputs: Mapping[str, Any]) -> None:
        for name in self.present:
            if getattr(outputs[name], "memory", None) is not self or outputs[name].call != self._call:
                raise InputError(f"{name} is not what the last call on this cache returned; that is taken in once.")
        self._call += 1
        if self._kind != "in_place":
            self._held = 1 - self._held
