"""Past and present of a decoder: which ports they are, and what shapes they have as a cache grows (docs/bundle.md)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import InputError
from .session import dtype_of

_PAST, _PRESENT = "past_key_values.", "present."
KINDS = ("concat", "delta", "in_place")


class Cache(ABC):
    """Past keys and values of one batch, empty at first. Where they lie is each cache's own business.

    kind "concat": the decoder gives the whole cache back; "delta": only the new columns, which are appended to those
    held; "in_place": past and present are buffers of the cache's capacity, in which the decoder writes behind what is
    held. Attributes: past and present, the names of the decoder's inputs and outputs, paired; length, the columns held.
    A component without a cache makes one without names, which serves a single pass.
    """

    def __init__(self, component: Mapping[str, Any], precision: str, batch: int) -> None:
        """component is an entry of the manifest's `components` (or an engine's own): inputs, outputs, cache. Ports of
        dtype "graph" take `precision`, "fp32", "fp16" or "bf16". Raises InputError where they do not fit together."""
        outputs = {port["name"] for port in component["outputs"]}
        ports = {
            port["name"]: port
            for port in component["inputs"]
            if is_past(port["name"]) and present_of(port["name"]) in outputs
        }
        self.past = list(ports)
        self.present = [present_of(name) for name in self.past]
        self.length = 0
        cache = component.get("cache") or {"kind": "concat", "axis": 2, "layers": 0}
        if 2 * cache["layers"] != len(ports):
            raise InputError(f"the manifest says {cache['layers']} cached layers, the decoder has {len(ports)} caches.")
        if cache["kind"] not in KINDS:
            raise InputError(f"a cache of kind {cache['kind']!r} cannot be run here; it can be {' or '.join(KINDS)}.")
        self._batch, self._kind, self._axis = batch, cache["kind"], int(cache["axis"])
        self._empty = {name: self._empty_shape(port) for name, port in ports.items()}
        self._around = {name: (shape[: self._axis], shape[self._axis + 1 :]) for name, shape in self._empty.items()}
        self._dtypes = {name: dtype_of(port["dtype"], precision) for name, port in ports.items()}

    def _empty_shape(self, port: Mapping[str, Any]) -> tuple[int, ...]:
        dims = [self._batch, *port["dims"][1:]]
        if self._kind != "in_place":
            dims[self._axis] = 0
        if not all(isinstance(dim, int) for dim in dims):
            raise InputError(
                f"{port['name']} has dims {port['dims']}: only batch and axis {self._axis} may be dynamic."
            )
        return tuple(dims)

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """The past by input name: [B,heads,length,head_dim], in place [B,heads,capacity,head_dim]."""

    def reorder(self, rows: np.ndarray) -> None:
        """Let each row of the batch go on from what the row that `rows` [B] names for it has held."""
        if rows.shape != (self._batch,) or not np.isin(rows, np.arange(self._batch)).all():
            raise InputError(f"a cache of {self._batch} rows cannot go on from its rows {rows.tolist()}.")
        self._reorder(rows)

    def update(self, outputs: Mapping[str, Any], columns: int) -> None:
        """Take in what a call that ran `columns` new columns returned for `present`.

        Raises InputError where one is missing or grew by anything else: an engine of another cache kind would otherwise
        answer from a wrong past.
        """
        if missing := [name for name in self.present if name not in outputs]:
            raise InputError(f"the decoder did not return {', '.join(missing)}.")
        for name in self.present:
            self._check(name, outputs[name].shape, columns)
        self._take(outputs)
        self.length += columns if self.past else 0

    def _shape(self, past: str, length: int) -> tuple[int, ...]:
        """Of a past of so many columns."""
        if self._kind == "in_place":
            return self._empty[past]
        before, behind = self._around[past]
        return (*before, length, *behind)

    def _check(self, present: str, shape: Sequence[int], columns: int) -> None:
        expected = self._shape(past_of(present), columns if self._kind == "delta" else self.length + columns)
        if tuple(shape) != expected:
            raise InputError(
                f"{present} came back as {list(shape)} after {self.length} columns of past and "
                f"{columns} new ones: that is no cache of kind {self._kind}."
            )
        if self._kind == "in_place" and self.length + columns > expected[self._axis]:
            raise InputError(f"the cache holds {expected[self._axis]} columns: {self.length} + {columns} are more.")

    @abstractmethod
    def _reorder(self, rows: np.ndarray) -> None:
        """As `reorder`, of rows that there are."""

    @abstractmethod
    def _take(self, outputs: Mapping[str, Any]) -> None:
        """Hold what a call returned, whose shapes are right."""


def pieces(columns: int, most: int) -> list[int]:
    """The lengths of calls of at most `most` new columns that together run `columns`. The shorter one comes first: then
    no call with a past reaches beyond what a full one at the end of the cache does."""
    first = columns % most
    return [*([first] if first else []), *([most] * (columns // most))]


def is_past(port: str) -> bool:
    """Whether an input holds keys or values of the past."""
    return port.startswith(_PAST)


def is_present(port: str) -> bool:
    """Whether an output holds keys or values for the next call."""
    return port.startswith(_PRESENT)


def present_of(past: str) -> str:
    """The output that belongs to an input of the past."""
    return _PRESENT + past.removeprefix(_PAST)


def past_of(present: str) -> str:
    """The input that an output is for, in the next call."""
    return _PAST + present.removeprefix(_PRESENT)
