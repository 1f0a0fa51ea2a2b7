"""The one place that touches past and present: keys and values of the columns a decoder has seen (docs/bundle.md)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import InputError
from .precisions import DTYPES
from .session import Arrays

_PAST, _PRESENT = "past_key_values.", "present."
KINDS = ("concat", "delta", "in_place")


class KVCache:
    """Past keys and values of one batch, empty at first.

    kind "concat": the decoder gives the whole cache back; "delta": only the new columns, which are appended here;
    "in_place": past and present are buffers of the cache's capacity, in which the decoder writes behind what is held.
    Attributes: past and present, the names of the decoder's inputs and outputs, paired; length, the columns held.
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
        self._kind, self._axis = cache["kind"], int(cache["axis"])
        self._arrays = {name: self._empty(port, precision, batch) for name, port in ports.items()}

    def _empty(self, port: Mapping[str, Any], precision: str, batch: int) -> np.ndarray:
        dims = [batch, *port["dims"][1:]]
        if self._kind != "in_place":
            dims[self._axis] = 0
        if not all(isinstance(dim, int) for dim in dims):
            raise InputError(
                f"{port['name']} has dims {port['dims']}: only batch and axis {self._axis} may be dynamic."
            )
        name = port["dtype"] if port["dtype"] != "graph" else DTYPES[precision]
        if name == "bfloat16":
            import ml_dtypes

            return np.zeros(dims, ml_dtypes.bfloat16)
        return np.zeros(dims, name)

    def inputs(self) -> Arrays:
        """The past arrays by input name: [B,heads,length,head_dim], in place [B,heads,capacity,head_dim]."""
        return dict(self._arrays)

    def held(self) -> Arrays:
        """The columns held, [B,heads,length,head_dim], by input name."""
        part = (slice(None),) * self._axis + (slice(self.length),)
        return {name: array[part] for name, array in self._arrays.items()}

    def reorder(self, rows: np.ndarray) -> None:
        """Let each row of the batch go on from what the row that `rows` [B] names for it has held."""
        self._arrays = {name: array[rows] for name, array in self._arrays.items()}

    def update(self, outputs: Mapping[str, np.ndarray], columns: int) -> None:
        """Take in the present arrays of a call that ran `columns` new columns.

        Raises InputError where a present array is missing or grew by anything else: an engine of another cache kind
        would otherwise answer from a wrong past.
        """
        if missing := [name for name in self.present if name not in outputs]:
            raise InputError(f"the decoder did not return {', '.join(missing)}.")
        grown = {}
        for past, present in zip(self.past, self.present, strict=True):
            old, new = self._arrays[past], outputs[present]
            if self._kind == "delta":
                new = np.concatenate([old, new], self._axis)
            expected = list(old.shape)
            if self._kind != "in_place":
                expected[self._axis] = self.length + columns
            if list(new.shape) != expected:
                raise InputError(
                    f"{present} came back as {list(outputs[present].shape)} after {self.length} columns of past and "
                    f"{columns} new ones: that is no cache of kind {self._kind}."
                )
            if self.length + columns > expected[self._axis]:
                raise InputError(f"the cache holds {expected[self._axis]} columns: {self.length} + {columns} are more.")
            grown[past] = new
        self._arrays = grown
        self.length += columns if grown else 0


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
