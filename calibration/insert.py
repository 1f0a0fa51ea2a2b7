"""Q/DQ nodes into a graph, at the inputs of chosen products alone.

    x -> QuantizeLinear -> DequantizeLinear -> MatMul <- DequantizeLinear <- stored int8, fp8 or int4 matrix

One pair serves all quantized products that read x. Everything else that reads x, such as the memory lookup or a product
that was left out, reads x itself: a tensor is never quantized for all its readers.

A product that makes query, key and value at once becomes one for each, of the same numbers: TensorRT lays the matrix
out anew for the parts of its result, which it does at the build with plain numbers, but in every run, and in floating
point, with quantized ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..exporter.errors import InputError
from ..exporter.graphs.lowering.edit import drop_unread, set_nodes, weights
from ..exporter.graphs.lowering.stored import DTYPES
from .layers import Layer, find_layers
from .modes import Format, Mode
from .operands import find_operands
from .packed import Packed, find_packed
from .scales import LayerScale, Scales
from .weight_scales import quantize_weight
from .weights_file import WeightsFile, read_matrix, read_vector


def quantize_graph(
    model: onnx.ModelProto,
    source: Path,
    component: str,
    scales: Scales,
    mode: Mode,
    new: WeightsFile,
    only: str | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Quantize the layers that `scales` has of a component, in any precision; new weights go into `new`.

    source is the published file of `model`, whose weights are read one at a time; only names a single layer. advance is
    told the bytes of every weight that was read. Raises InputError where the graph has no such layer.
    """
    _raise_opset(model, mode.opset)
    _Insertion(model.graph, source, scales, component, mode, new).apply(only, advance)


def _raise_opset(model: onnx.ModelProto, lowest: int) -> None:
    # Nothing that published graphs hold means anything else in opset 21 than in 20.
    for imports in (model.opset_import, *(function.opset_import for function in model.functions)):
        for entry in imports:
            if not entry.domain:
                entry.version = max(entry.version, lowest)


class _Insertion:
    """One graph while Q/DQ nodes are put into it."""

    def __init__(
        self, graph: onnx.GraphProto, source: Path, scales: Scales, component: str, mode: Mode, new: WeightsFile
    ) -> None:
        self._graph, self._source, self._mode, self._new = graph, source, mode, new
        self._method = scales.method
        self._layers = scales.layers[component]
        self._factors = scales.factors.get(component, {})
        self._stored = weights(graph)
        self._nodes = {node.name: node for node in graph.node}
        self._added: dict[str, onnx.NodeProto] = {}
        self._removed: set[str] = set()
        self._initializers: dict[str, onnx.TensorProto] = {}

    def apply(self, only: str | None, advance: Callable[[int], None]) -> None:
        """Change the graph."""
        found = {layer.name: layer for layer in find_layers(self._graph)}
        names = [only] if only else list(self._layers)
        if missing := [name for name in names if name not in found]:
            raise InputError(f"{self._source} has no product {missing[0]!r}, of which there is a range.")
        layers = [found[name] for name in names]
        packed = find_packed(self._graph)
        norms = {layer.name: operand.norm for operand in find_operands(self._graph, layers) for layer in operand.layers}
        for layer in layers:
            self._quantize(layer, self._layers[layer.name], norms[layer.name], packed.get(layer.name))
            advance(layer.inputs * layer.outputs * DTYPES[self._stored[layer.weight].data_type].itemsize)
        left = [node for node in self._graph.node if node.name not in self._removed]
        set_nodes(self._graph, [*left, *self._added.values()])
        self._graph.initializer.extend(self._initializers.values())
        drop_unread(self._graph)

    def _quantize(self, layer: Layer, scale: LayerScale, norm: tuple[str, ...], packed: Packed | None) -> None:
        tensor = self._stored[layer.weight]
        data_type = tensor.data_type
        weight = read_matrix(tensor, self._source)
        node, x = self._nodes[layer.name], layer.input
        if scale.smoothed:
            factors = np.array(self._factors[scale.smoothed], np.float32)
            if len(factors) != layer.inputs:
                raise InputError(f"{self._source}: {layer.name} has {layer.inputs} inputs, its ranges {len(factors)}.")
            x = self._divided_norm(norm, factors) if norm else self._divided(x, factors, data_type)
            weight = weight * factors[:, None]
        if self._mode.activations and scale.clip is not None:
            x = self._quantized(x, scale.clip, self._mode.activations, data_type)
        if packed:
            self._unpack(layer.name, packed, x, weight, scale, data_type)
        else:
            node.input[0], node.input[1] = x, self._weight(layer.name, weight, scale, data_type)

    def _unpack(self, name: str, packed: Packed, x: str, weight: np.ndarray, scale: LayerScale, data_type: int) -> None:
        """A product, the sum behind it and a bias of its own for each part of the result."""
        tensor = self._stored[packed.bias]
        bias = np.split(read_vector(tensor, self._source), len(packed.parts))
        for i, (output, columns) in enumerate(zip(packed.parts, np.split(weight, len(packed.parts), 1), strict=True)):
            made = self._add(f"{name}.{i}", "MatMul", [x, self._weight(f"{name}.{i}", columns, scale, data_type)])
            vector = f"{packed.bias}.{i}"
            self._initializers[vector] = self._new.add_floats(vector, bias[i], tensor.data_type)
            self._added[output] = helper.make_node("Add", [made, vector], [output], f"{packed.add}.{i}")
        self._removed |= {name, packed.add, packed.split}

    def _divided(self, x: str, factors: np.ndarray, data_type: int) -> str:
        """x divided by `factors`, by a product of its own."""
        name = f"{x}/smoothed"
        if name not in self._added:
            vector = f"{name}/factors"
            self._initializers[vector] = self._new.add_floats(vector, 1 / factors, data_type)
            self._add(name, "Mul", [x, vector])
        return name

    def _divided_norm(self, nodes: tuple[str, ...], factors: np.ndarray) -> str:
        """The norm's values divided by `factors`: its nodes once more, with a weight and bias that are divided."""
        renamed: dict[str, str] = {}
        for node_name in nodes:
            node = self._nodes[node_name]
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            copied.name = f"{node.name}/smoothed"
            copied.input[:] = [self._divided_vector(one, factors) or renamed.get(one, one) for one in node.input]
            copied.output[:] = [copied.name]
            renamed[node.output[0]] = copied.name
            self._added.setdefault(copied.name, copied)
        return copied.name

    def _divided_vector(self, name: str, factors: np.ndarray) -> str | None:
        tensor = self._stored.get(name)
        if tensor is None:
            return None
        made = f"{name}/smoothed"
        if made not in self._initializers:
            values = read_vector(tensor, self._source) / factors
            self._initializers[made] = self._new.add_floats(made, values, tensor.data_type)
        return made

    def _quantized(self, x: str, clip: float, number: Format, data_type: int) -> str:
        """x through a pair that all quantized products share."""
        names = [f"{x}/{part}" for part in ("scale", "zero_point", "QuantizeLinear", "DequantizeLinear")]
        scale, zero, quantized, result = names
        if result not in self._added:
            value = np.array(clip / number.top if clip else 1.0, np.float32).astype(DTYPES[data_type])
            if value == 0:
                value = np.array(np.finfo(np.float16).smallest_subnormal, DTYPES[data_type])
            self._initializers[scale] = onnx.TensorProto(name=scale, data_type=data_type, raw_data=value.tobytes())
            self._initializers[zero] = onnx.TensorProto(name=zero, data_type=number.onnx_type, raw_data=b"\0")
            self._add(quantized, "QuantizeLinear", [x, scale, zero])
            self._add(result, "DequantizeLinear", [quantized, scale, zero])
        return result

    def _weight(self, name: str, weight: np.ndarray, scale: LayerScale, data_type: int) -> str:
        importance = np.array(scale.importance) if scale.importance else None
        made = quantize_weight(weight, self._mode, self._method, DTYPES[data_type], importance)
        stem = f"{name}/weight"
        number = self._mode.weights
        self._initializers[stem] = self._new.add(stem, made.numbers, number)
        scales = made.scales if self._mode.blocks else made.scales[0]
        self._initializers[f"{stem}/scale"] = self._new.add_floats(f"{stem}/scale", scales, data_type)
        attributes = {"axis": 0, "block_size": made.block} if self._mode.blocks else {"axis": 1}
        return self._add(f"{stem}/DequantizeLinear", "DequantizeLinear", [stem, f"{stem}/scale"], **attributes)

    def _add(self, name: str, kind: str, inputs: list[str], **attributes: Any) -> str:
        self._added[name] = helper.make_node(kind, inputs, [name], name, **attributes)
        return name
