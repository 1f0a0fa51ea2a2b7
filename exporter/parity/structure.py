"""Is one graph the other in another precision? Everything is compared but the float types and the Casts between them.

Nodes share names across precisions (`graphs.passes.name_nodes`), and a value is known by the node that makes it: a Cast
to a float type is looked through, and so is an inline constant, which counts by its value, rounded to the narrower of
the two types.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper

from ..graphs.stored import is_transposed

MOST_REPORTED = 8
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_BITS = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that stands in the graph itself; equal to another where both agree in the narrower of their types."""

    array: np.ndarray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant) or self.array.shape != other.array.shape:
            return False
        first, second = sorted((self.array, other.array), key=lambda array: _BITS.get(array.dtype.name, 0))
        if first.dtype.name in _BITS and second.dtype.name in _BITS:
            with np.errstate(over="ignore"):
                second = second.astype(first.dtype)
            return np.array_equal(first.astype(np.float64), second.astype(np.float64), equal_nan=True)
        return first.dtype == second.dtype and np.array_equal(first, second)

    def __repr__(self) -> str:
        return f"the constant {np.array2string(self.array.astype(object), threshold=8)}"


@dataclass(frozen=True)
class Step:
    """A node without its precision: inputs are makers of values, attributes are sorted by name."""

    name: str
    operator: str
    inputs: list[Any]
    attributes: dict[str, Any]


def structural_differences(graph: Path, twin: Path) -> list[str]:
    """What differs between two graph files apart from precision, in words; at most MOST_REPORTED and a count."""
    found = list(_differences(*(onnx.load(str(path), load_external_data=False) for path in (graph, twin))))
    more = [f"and {len(found) - MOST_REPORTED} more differences"] if len(found) > MOST_REPORTED else []
    return [f"{graph.name}: {text}" for text in found[:MOST_REPORTED] + more]


def _differences(first: onnx.ModelProto, second: onnx.ModelProto) -> Iterator[str]:
    graphs = first.graph, second.graph
    for kind, ports in (("input", [list(g.input) for g in graphs]), ("output", [list(g.output) for g in graphs])):
        yield from _unequal(f"the {kind}s", *([_port(value) for value in values] for values in ports))
    weights = [{t.name: _weight(t) for t in g.initializer if _is_weight(t)} for g in graphs]
    for name in sorted(weights[0].keys() | weights[1].keys()):
        yield from _unequal(f"the weight {name}", *(each.get(name) for each in weights))
    inline = [{t.name: t for t in g.initializer if not _is_weight(t)} for g in graphs]
    made = [_steps(g.node, constants, [o.name for o in g.output]) for g, constants in zip(graphs, inline, strict=True)]
    yield from _unequal_steps("", *made)
    functions = [{(f.domain, f.name): f for f in model.functions} for model in (first, second)]
    for key in sorted(functions[0].keys() | functions[1].keys()):
        where = f"the function {key[0]}.{key[1]}"
        if key not in functions[0] or key not in functions[1]:
            yield f"{where} is in one of them only"
            continue
        bodies = [each[key] for each in functions]
        yield from _unequal(f"the parameters of {where}", *([*f.input, *f.attribute] for f in bodies))
        yield from _unequal_steps(f"{where}, ", *(_steps(f.node, {}, f.output) for f in bodies))


def _steps(
    nodes: Sequence[NodeProto], inline: Mapping[str, TensorProto], outputs: Sequence[str]
) -> tuple[list[Step], list[Any]]:
    """The nodes but constants and Casts to floats, in order; and what makes each output."""
    makers: dict[str, Any] = {name: Constant(_array(tensor)) for name, tensor in inline.items()}
    steps = []
    for node in nodes:
        inputs = [makers.get(name, name) for name in node.input]
        attributes = {each.name: _attribute(each) for each in node.attribute}
        constant = _constant(node)
        if constant is not None:
            makers[node.output[0]] = constant
            continue
        # Casts to integers or booleans belong to the computation, but are counted with the others: they have no name.
        name = node.name
        if node.op_type == "Cast" and node.domain == "":
            if attributes["to"] in _FLOATS:
                makers[node.output[0]] = inputs[0]
                continue
            name = f"Cast to {TensorProto.DataType.Name(attributes['to'])} of {inputs[0]}"
        # In a function nodes have no names: their results do, and are part of the text that both were made from.
        name = name or node.output[0]
        makers |= {output: f"{name}:{index}" for index, output in enumerate(node.output)}
        steps.append(Step(name, f"{node.domain}.{node.op_type}".lstrip("."), inputs, attributes))
    return steps, [makers.get(name, name) for name in outputs]


def _unequal_steps(
    where: str, first: tuple[list[Step], list[Any]], second: tuple[list[Step], list[Any]]
) -> Iterator[str]:
    for step, other in zip_longest(first[0], second[0]):
        if step is None or other is None or step.name != other.name:
            # From here on everything is shifted.
            names = [each.name if each else "nothing" for each in (step, other)]
            yield f"{where}{names[0]} stands where its float32 twin has {names[1]}"
            return
        for field in ("operator", "inputs", "attributes"):
            yield from _unequal(f"{where}the {field} of {step.name}", getattr(step, field), getattr(other, field))
    yield from _unequal(f"{where}what makes the outputs", first[1], second[1])


def _unequal(what: str, first: Any, second: Any) -> Iterator[str]:
    if first != second:
        yield f"{what}: {first}, in its float32 twin {second}"


def _port(value: onnx.ValueInfoProto) -> tuple[str, str, list[Any]]:
    tensor = value.type.tensor_type
    kind = "float" if tensor.elem_type in _FLOATS else TensorProto.DataType.Name(tensor.elem_type)
    return value.name, kind, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]


def _is_weight(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def _weight(tensor: TensorProto) -> tuple[list[int], bool]:
    return list(tensor.dims), is_transposed(tensor)


def _constant(node: NodeProto) -> Constant | None:
    """The value of a Constant node, unless it is that of a function's attribute."""
    if node.op_type != "Constant" or node.domain or node.attribute[0].ref_attr_name:
        return None
    (attribute,) = node.attribute
    value = _attribute(attribute)
    return value if isinstance(value, Constant) else Constant(np.asarray(value))


def _attribute(attribute: AttributeProto) -> Any:
    if attribute.ref_attr_name:
        return f"the attribute {attribute.ref_attr_name}"
    if attribute.type == AttributeProto.TENSOR:
        return Constant(_array(attribute.t))
    value = onnx.helper.get_attribute_value(attribute)
    return value if isinstance(value, int | float | bytes) else _plain(value)


def _plain(value: Any) -> Any:
    """Lists of numbers as they are; subgraphs, which no published graph has, by their bytes."""
    if hasattr(value, "SerializeToString"):
        return value.SerializeToString(deterministic=True)
    return [_plain(item) if hasattr(item, "SerializeToString") else item for item in value]


def _array(tensor: TensorProto) -> np.ndarray:
    array = numpy_helper.to_array(tensor)
    # Older versions of onnx widen it; the type says how far another value may be rounded.
    return array.astype(ml_dtypes.bfloat16) if tensor.data_type == TensorProto.BFLOAT16 else array
