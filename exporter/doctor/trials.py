"""Graphs so small that their results are known, for trying what runs graphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ...plugins.reference import visual_memory_ffn
from ..inspection.memory_sites import DOMAIN, VISUAL_MEMORY

Array = NDArray[np.float32]
OUTPUT = "y"


@dataclass(frozen=True)
class Trial:
    """A float32 model whose output `y` is known for these inputs; the first dimension of all of them is dynamic.

    operators are the names of its nodes that only the plugin has.
    """

    name: str
    model: bytes
    inputs: Mapping[str, Array]
    output: Array
    operators: tuple[str, ...] = ()

    def ports(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Inputs and outputs as a bundle's manifest describes them."""
        arrays = {**self.inputs, OUTPUT: self.output}
        ports = [{"name": name, "dtype": "float32", "dims": ["n", *a.shape[1:]]} for name, a in arrays.items()]
        return ports[:-1], ports[-1:]

    def profile(self) -> dict[str, Any]:
        """An optimization profile from these inputs to four times as many rows."""
        shapes = {name: list(array.shape) for name, array in self.inputs.items()}
        limits = {name: {"min": s, "opt": s, "max": [4 * s[0], *s[1:]]} for name, s in shapes.items()}
        return {"name": "default", "shapes": limits}


def two_nodes() -> Trial:
    """`y = relu(x @ [[2, 0], [0, 2]])` of x [n,2]."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], [OUTPUT])]
    weights = {"w": np.array([[2, 0], [0, 2]], np.float32)}
    x, y = np.array([[1, -2]], np.float32), np.array([[2, 0]], np.float32)
    return _trial("two_nodes", nodes, weights, {"x": x}, y)


def memory_lookup() -> Trial:
    """A VisualMemoryFFN, as it is left to the plugin, of a product: x, ffn and visual [n,2,8], tables [4,8]."""
    random = np.random.default_rng(3)
    sizes = {"x": (1, 2, 8), "ffn": (1, 2, 8), "visual": (1, 2, 8), "w": (8, 8), "keys": (4, 8), "values": (4, 8)}
    arrays = {name: random.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    weights = {name: arrays.pop(name) for name in ("w", "keys", "values")}
    operands = ["hidden", "ffn", "visual", "keys", "values"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"]),
        helper.make_node(VISUAL_MEMORY, operands, [OUTPUT], name="memory", domain=DOMAIN, scale=0.5, activation="relu"),
    ]
    tensors = {**arrays, **weights, "hidden": arrays["x"] @ weights["w"]}
    hidden, ffn, visual, keys, values = (tensors[name] for name in operands)
    y = visual_memory_ffn(hidden, ffn, visual, keys, values, scale=0.5, activation="relu").astype(np.float32)
    return _trial("memory_lookup", nodes, weights, arrays, y, (VISUAL_MEMORY,))


def _trial(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array],
    inputs: Mapping[str, Array],
    output: Array,
    operators: tuple[str, ...] = (),
) -> Trial:
    ports = [
        helper.make_tensor_value_info(port, TensorProto.FLOAT, ["n", *array.shape[1:]])
        for port, array in {**inputs, OUTPUT: output}.items()
    ]
    stored = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(list(nodes), name, ports[:-1], ports[-1:], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return Trial(name, model.SerializeToString(), inputs, output, operators)
