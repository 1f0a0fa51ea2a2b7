"""Which products of a graph are quantized: those of one stored matrix with activations, by rule and by pattern.

Products of two activations (attention, the memory's visual rows) have no stored matrix and never qualify; what is
inside a function, such as the memory lookup with its tables, is not looked into.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

import onnx

from ..exporter.cache import is_past, is_present
from ..exporter.errors import InputError
from ..exporter.graphs.lowering.edit import producers, readers, weights
from ..exporter.graphs.lowering.stored import DTYPES
from .modes import Mode, block_of

# Tensor cores take operands of this many numbers: less is padded, and nothing is gained.
SMALLEST = 16
# The share of a component's weights that products must have: an image decoder is made of convolutions.
_LEAST_SHARE = 0.05
_PRODUCTS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class Layer:
    """A MatMul of activations `input` [..., inputs] with the stored matrix `weight` [inputs, outputs]. name is its
    node's, which graphs of one model in different precisions share."""

    name: str
    input: str
    weight: str
    inputs: int
    outputs: int

    @property
    def module(self) -> str:
        """The module that the weight belongs to, as in `model.layers.0.mlp.up_proj`."""
        return self.name.rsplit("/", 1)[0]


def find_layers(graph: onnx.GraphProto) -> list[Layer]:
    """All products of the main graph that could be quantized, in order."""
    stored = weights(graph)
    return [
        Layer(node.name, node.input[0], node.input[1], *stored[node.input[1]].dims)
        for node in graph.node
        if not node.domain and _is_plain(node) and node.input[0] not in stored and _is_matrix(stored.get(node.input[1]))
    ]


def _is_plain(node: onnx.NodeProto) -> bool:
    # A Gemm that transposes or scales is none that this project publishes.
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not node.attribute)


def _is_matrix(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and len(tensor.dims) == 2 and tensor.data_type in DTYPES


@dataclass(frozen=True)
class Choice:
    """The layers to quantize, and for every other one the reason why not, by name."""

    chosen: list[Layer]
    left_out: dict[str, str]


def choose(graph: onnx.GraphProto, mode: Mode, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Choice:
    """Choose among a graph's products. include and exclude are patterns (`*`, `?`, `[...]`) of layer or module names;
    include overrules the rules, exclude all."""
    first, last, data = _first(graph), _last(graph), _data(graph)
    chosen, left_out = [], {}
    layers = find_layers(graph)
    few = sum(layer.inputs * layer.outputs for layer in layers) < _LEAST_SHARE * _numbers(graph)
    for layer in layers:
        if any(matches(layer, pattern) for pattern in exclude):
            left_out[layer.name] = "excluded by name"
        elif not block_of(mode, layer.inputs):
            left_out[layer.name] = f"its {layer.inputs} inputs are no multiple of a block"
        elif any(matches(layer, pattern) for pattern in include):
            chosen.append(layer)
        elif few:
            left_out[layer.name] = "the component is hardly made of products: nothing is gained"
        elif min(layer.inputs, layer.outputs) < SMALLEST:
            left_out[layer.name] = f"smaller than {SMALLEST}: nothing is gained"
        elif layer.name in last:
            left_out[layer.name] = "last layer: its error is the answer's"
        elif layer.input not in data:
            left_out[layer.name] = "it reads masks, positions or time steps alone"
        elif layer.name in first:
            left_out[layer.name] = "first layer: it reads the input itself"
        else:
            chosen.append(layer)
    return Choice(chosen, left_out)


def _numbers(graph: onnx.GraphProto) -> int:
    return sum(prod(tensor.dims) for tensor in graph.initializer)


def matches(layer: Layer, pattern: str) -> bool:
    """Whether a pattern names the layer or its module."""
    return fnmatchcase(layer.name, pattern) or fnmatchcase(layer.module, pattern)


def check_patterns(layers: Sequence[Layer], patterns: Sequence[str]) -> None:
    """Raise InputError for a pattern that names nothing: it would be a slip that nobody notices."""
    for pattern in patterns:
        if not any(matches(layer, pattern) for layer in layers):
            examples = ", ".join(layer.module for layer in layers[:3])
            raise InputError(f"no layer is called {pattern!r}; there are {len(layers)}, such as {examples}.")


def _first(graph: onnx.GraphProto) -> set[str]:
    """Products that the graph's inputs reach without another product or a table lookup in between."""
    read, stored = readers(graph), weights(graph)

    def stops(node: onnx.NodeProto) -> bool:
        return _is_product(node) or (node.op_type == "Gather" and node.input[0] in stored)

    floats = {name for name in _float_inputs(graph) if not is_past(name)}
    return _reached(floats, lambda name: read.get(name, []), stops, lambda node: node.output)


def _data(graph: onnx.GraphProto) -> set[str]:
    """Values that come of a float input or a token's row of a table. All others, such as the coefficients that position
    embeddings are resized by or the embedding of a time step, are made of masks, lengths and integers."""
    stored, given, data = weights(graph), {value.name for value in graph.input}, _float_inputs(graph)
    for node in graph.node:
        looked_up = node.op_type == "Gather" and node.input[0] in stored and node.input[1] in given
        carried = node.op_type != "Shape" and not data.isdisjoint(node.input)
        if looked_up or carried:
            data.update(node.output)
    return data


def _float_inputs(graph: onnx.GraphProto) -> set[str]:
    return {value.name for value in graph.input if value.type.tensor_type.elem_type in DTYPES}


def _last(graph: onnx.GraphProto) -> set[str]:
    """Products whose result reaches an output of the graph that is no cache, without another product in between, and
    without being added to others: a residual stream's end is the work of all layers, not of a last one."""
    made, stored = producers(graph), weights(graph)

    def before(node: onnx.NodeProto) -> Sequence[str]:
        summed = node.op_type == "Add" and not any(name in stored for name in node.input)
        return [] if summed else node.input

    outputs = {value.name for value in graph.output if not is_present(value.name)}
    return _reached(outputs, lambda name: [made[name]] if name in made else [], _is_product, before)


def _is_product(node: onnx.NodeProto) -> bool:
    return bool(node.domain) or node.op_type in _PRODUCTS


def _reached(
    values: set[str],
    nodes_at: Callable[[str], Sequence[onnx.NodeProto]],
    stops: Callable[[onnx.NodeProto], bool],
    beyond: Callable[[onnx.NodeProto], Sequence[str]],
) -> set[str]:
    """Names of the nodes at which a walk from `values` stops."""
    pending, seen, found = list(values), set(values), set()
    while pending:
        for node in nodes_at(pending.pop()):
            if stops(node):
                found.add(node.name)
            if stops(node) or node.op_type == "Shape":
                continue
            new = [name for name in beyond(node) if name and name not in seen]
            seen.update(new)
            pending.extend(new)
    return found
