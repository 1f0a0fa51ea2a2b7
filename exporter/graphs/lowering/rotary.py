"""Rotary angles looked up instead of computed, so that attention reads the cache where it lies.

TensorRT 11.4 (RTX 1.7) puts the rotation, the joining of past and new columns and the attention into one kernel only
where cosine and sine are ready-made tensors of four dimensions. Computed in the graph, they become part of the first
layer's attention, and every later layer copies its whole past before it reads it. The result of a gather will do.
"""

from functools import partial

import numpy as np
import onnx
from onnx import numpy_helper

from .additions import Additions
from .edit import producers, weights
from .stored import NewWeights, read_rows

_FUNCTIONS = {"Cos": np.cos, "Sin": np.sin}


def look_angles_up(graph: onnx.GraphProto, positions: int, new: NewWeights) -> None:
    """Replace cos and sin of `ids[:, None, :, None] * frequencies` by rows of two stored float32 tables, which serve
    ids from 0 to positions - 1. A graph without such angles stays as it is."""
    added, replaced = Additions(graph), set()
    for node in graph.node:
        if node.op_type not in _FUNCTIONS or (angle := _angle(node.input[0], graph)) is None:
            continue
        ids, frequencies = angle
        values = np.concatenate(list(read_rows(frequencies, new.source)))[:, 0]
        angles = np.arange(positions, dtype=np.float32)[:, None] * values
        name = f"{node.name}/table"
        table = numpy_helper.from_array(_FUNCTIONS[node.op_type](angles), name)
        added.weight(name, partial(new.add, parts=[(table, 1.0)], rows=positions))
        rows = added.node("Unsqueeze", [ids, added.constant(np.array([1]), "rotary/axis")], "rotary/rows")
        added.node("Gather", [name, rows], node.output[0], axis=0)
        replaced.add(node.output[0])
    added.apply(replaced)


def _angle(value: str, graph: onnx.GraphProto) -> tuple[str, onnx.TensorProto] | None:
    """The ids and the frequencies that an angle is the product of; None where it is anything else."""
    made, stored = producers(graph), weights(graph)
    product = made.get(value)
    if product is None or product.op_type != "Mul" or product.input[1] not in stored:
        return None
    frequencies, ids, axes = stored[product.input[1]], product.input[0], []
    while ids in made and made[ids].op_type in ("Cast", "Unsqueeze"):
        if made[ids].op_type == "Unsqueeze" and made[ids].input[1] in stored:
            axes.append(numpy_helper.to_array(stored[made[ids].input[1]]).tolist())
        ids = made[ids].input[0]
    two = any(v.name == ids and len(v.type.tensor_type.shape.dim) == 2 for v in graph.input)
    return (ids, frequencies) if two and axes == [[3], [1]] and len(frequencies.dims) == 1 else None
