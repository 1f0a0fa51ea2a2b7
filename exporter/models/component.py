"""What a family says of each graph it exports: its inputs, outputs, weights and forward pass. Data only."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checkpoints.lazy import LazyTensor, from_array

Dim = int | str


@dataclass(frozen=True)
class Port:
    """One input or output. dtype is "int64", "float32", or "graph": whatever precision the graph is exported in.

    A dim is a number, the name of a dynamic dimension, a sum of names such as "past_sequence + sequence", or a multiple
    of one such as "8*height".
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]


@dataclass(frozen=True)
class Weight:
    """A tensor of the checkpoint under its official name; `float32` ones stay so in half graphs (norms)."""

    shape: tuple[int, ...]
    float32: bool = False


def norm_weights(name: str, width: int) -> dict[str, Weight]:
    """`<name>.weight` and `<name>.bias` of a norm."""
    return {f"{name}.{kind}": Weight((width,), float32=True) for kind in ("weight", "bias")}


def linear_weights(name: str, rows: int, columns: int) -> dict[str, Weight]:
    """`<name>.weight` [rows,columns] and `<name>.bias` [rows]."""
    return {f"{name}.weight": Weight((rows, columns)), f"{name}.bias": Weight((rows,))}


def shapes_of(weights: Mapping[str, Weight]) -> dict[str, tuple[int, ...]]:
    """What `matching.match` expects of tensors that a checkpoint holds as the graph does."""
    return {name: weight.shape for name, weight in weights.items()}


@dataclass(frozen=True)
class Cache:
    """Where a component's `past` inputs grow into `present` outputs: the axis, and how many layers there are."""

    axis: int
    layers: int


@dataclass(frozen=True)
class Depth:
    """Layers that may be copied: the stems of each series, whose weights and caches are named `<stem>.<i>.<rest>`, and
    the component with at most n layers of every series.

    Nothing, in the layers or outside, may depend on a layer's number or on how many there are. Layers whose weights
    differ in shape or precision are found by that, and traced one by one.
    """

    stems: tuple[tuple[str, ...], ...]
    at: Callable[[int], "Component"]


@dataclass(frozen=True)
class Component:
    """One exported graph.

    forward(weights, inputs, wanted) takes tensors by official name and by port name and returns the outputs in port
    order. wanted names outputs, None (or left out) means all: what nobody wants may be missing at the end.
    constants are values that follow from the config alone, such as rotary frequencies; they are weights to forward.
    ranges gives [lowest, highest] of every dynamic dimension; vocab is how many ids its `input_ids` know. depth spares
    tracing every layer.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: dict[str, Weight]
    forward: Callable[..., tuple[Any, ...]]
    ranges: dict[str, tuple[int, int]]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    cache: Cache | None = None
    vocab: int | None = None
    depth: Depth | None = None


def constants_of(components: Iterable[Component]) -> dict[str, LazyTensor]:
    """The constants of several components, beside the tensors of a checkpoint."""
    return {
        name: from_array(array, f"{component.name}: {name}")
        for component in components
        for name, array in component.constants.items()
    }
