"""Layers first: what each layer of a graph hands on is compared at once, then every node of the layers that spoil it.

For where a comparison is expensive, as an engine that must be built for each few dozen results.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .bisect_probe import GraphPair

# Layers that are looked into, of those that an error enters at.
LOOKED_INTO = 3
_LAYER = re.compile(r"(.*?\.\d+)\.")


@dataclass(frozen=True)
class Layer:
    """Consecutive nodes of a graph. values are their results that have a partner; ends those of them that later layers
    read or the graph returns."""

    name: str
    values: list[str]
    ends: list[str]


@dataclass(frozen=True)
class Found:
    """errors by value, of all that was compared; assumed are values over the limit for all that is known, which were
    not: those of layers that hand such a one on; left are the layers an error enters at that were not looked into."""

    errors: dict[str, float]
    assumed: set[str]
    left: list[str]


Compare = Callable[[Layer | None, Sequence[str]], Mapping[str, float]]


def layers_of(pair: GraphPair) -> list[Layer]:
    """A graph's layers in order, by the numbers in its nodes' names. What comes before the first is a layer of its own;
    other nodes belong to the layer before them."""
    names, values = [""], [list[str]()]
    layer_of: dict[str, int] = {}
    for node in pair.graph.graph.node:
        found = _LAYER.match(node.name)
        if found and found[1] != names[-1]:
            names.append(found[1])
            values.append([])
        for name in node.output:
            layer_of[name] = len(names) - 1
            if name in pair.partners:
                values[-1].append(name)
    handed_on = {value.name for value in pair.graph.graph.output}
    for node in pair.graph.graph.node:
        own = layer_of[node.output[0]]
        handed_on.update(name for name in node.input if layer_of.get(name, own) != own)
    return [
        Layer(name, held, [value for value in held if value in handed_on])
        for name, held in zip(names, values, strict=True)
    ]


def by_layers(layers: Sequence[Layer], limit: float, compare: Compare) -> Found:
    """Compare what all layers hand on, then all values of the first layers that an error enters at: those that hand one
    over the limit on while the layer before does not. compare gives the errors of the values of a layer, or of several
    (None), that it is asked for."""
    errors = dict(compare(None, [value for layer in layers for value in layer.ends]))
    spoilt = [any(errors[value] > limit for value in layer.ends) for layer in layers]
    entered = [index for index, bad in enumerate(spoilt) if bad and not (index and spoilt[index - 1])]
    looked_into = entered[:LOOKED_INTO]
    for index in looked_into:
        errors |= compare(layers[index], [value for value in layers[index].values if value not in errors])
    assumed = {
        value
        for index, layer in enumerate(layers)
        if spoilt[index] and index not in looked_into
        for value in layer.values
        if value not in errors
    }
    return Found(errors, assumed, [layers[index].name for index in entered[LOOKED_INTO:]])
