"""Nodes and constants that a lowering adds to a graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .edit import set_nodes


class Additions:
    """Collects what is to be added; asked twice for one name, it makes the value once. `apply` changes the graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._nodes: dict[str, onnx.NodeProto] = {}
        self._weights: dict[str, onnx.TensorProto] = {}

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node with one output, which gives it its name too; returns that name."""
        if output not in self._nodes:
            self._nodes[output] = helper.make_node(kind, inputs, [output], output, **attributes)
        return output

    def constant(self, array: np.ndarray, name: str) -> str:
        """A small constant, stored in the graph itself."""
        if name not in self._weights:
            self._weights[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str, make: Callable[[str], onnx.TensorProto]) -> str:
        """An initializer that `make` writes into a data file."""
        if name not in self._weights:
            self._weights[name] = make(name)
        return name

    def copy(self, node: onnx.NodeProto, named: Callable[[str], str]) -> None:
        """A node of a function's body, its name and values renamed."""
        copied = onnx.NodeProto.FromString(node.SerializeToString())
        copied.input[:], copied.output[:] = map(named, node.input), map(named, node.output)
        copied.name = copied.output[0]
        self._nodes[copied.name] = copied

    def apply(self, replaced: set[str]) -> None:
        """Put everything into the graph, in place of the nodes that make the values `replaced`."""
        kept = [node for node in self._graph.node if node.output[0] not in replaced]
        set_nodes(self._graph, [*kept, *self._nodes.values()])
        self._graph.initializer.extend(self._weights.values())
