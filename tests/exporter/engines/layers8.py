"""The layers that TensorRT 8.5's parser makes of a lowered graph, as far as types and names go, for the fake one."""

import json
import sys
from math import prod
from pathlib import Path
from typing import Any

from memvp_export.exporter.inspection.values import load_graph, type_graph

_KINDS = {
    "ACTIVATION": "Sigmoid Tanh Relu",
    "CONCATENATION": "Concat",
    "CONVOLUTION": "Conv",
    "FILL": "Range",
    "GATHER": "Gather GatherND",
    "IDENTITY": "Cast",
    "MATRIX_MULTIPLY": "MatMul",
    "PLUGIN_V2": "VisualMemoryFFN",
    "REDUCE": "ReduceMean ReduceMax ReduceSum",
    "SELECT": "Where",
    "SHAPE": "Shape",
    "SHUFFLE": "Reshape Transpose Squeeze Unsqueeze",
    "SLICE": "Slice Expand Pad",
    "SOFTMAX": "Softmax",
    "UNARY": "Sqrt Reciprocal Erf Not Sin Cos",
}
_TYPES = {name: kind for kind, names in _KINDS.items() for name in names.split()}


def write_layers(recipe: Path) -> list[dict[str, Any]]:
    """Write `<graph>.layers.json` beside the lowered graph of a recipe; returns the layers. Softmax is followed by a
    reshape without a name, and so is each scalar that a sum reads."""
    asked = json.loads(recipe.read_text())
    path = recipe.with_name(asked["onnx"])
    model = load_graph(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    graph = type_graph(model)
    dtypes = {name: value.dtype.replace("int64", "int32") for name, value in graph.types.items()}
    layers: list[dict[str, Any]] = []

    def add(name: str, kind: str, inputs: list[str], outputs: list[str], **more: Any) -> None:
        held = {"name": name or f"(Unnamed Layer* {len(layers)}) [Shuffle]", "type": kind, "inputs": inputs}
        read = [dtypes.get(value, "float32") for value in inputs]
        layers.append(
            {**held, "outputs": outputs, "dtypes": [dtypes[value] for value in outputs], "read": read, **more}
        )

    for name in stored:
        add(name, "CONSTANT", [], [name])
    for node in graph.nodes:
        inputs = list(node.input)
        if node.op_type == "Add":
            for i, value in enumerate(inputs):
                if value in stored and not stored[value].dims:
                    inputs[i] = f"{node.name}/wide/{i}"
                    dtypes[inputs[i]] = dtypes[value]
                    add("", "SHUFFLE", [value], [inputs[i]])
        kind = _TYPES.get(node.op_type, "ELEMENTWISE")
        weights = max((prod(stored[value].dims) for value in node.input if value in stored), default=0)
        output = node.output[0]
        if node.op_type == "Softmax":
            dtypes[f"{output}/flat"] = dtypes[output]
            add(node.name, kind, inputs, [f"{output}/flat"])
            add("", "SHUFFLE", [f"{output}/flat"], [output])
        else:
            add(
                node.name,
                kind,
                inputs,
                [output],
                weights=weights if kind == "MATRIX_MULTIPLY" else 0,
                plugin=node.op_type,
            )
    held = {"inputs": asked["inputs"], "outputs": asked["outputs"], "layers": layers}
    Path(f"{path}.layers.json").write_text(json.dumps(held))
    return layers


if __name__ == "__main__":
    write_layers(Path(sys.argv[1]))
