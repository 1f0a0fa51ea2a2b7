"""A lowered graph in the ONNX that the parsers of TensorRT 8.5 and 8.6 read as it is meant.

They were written for opset 17. Of a newer form they refuse some (no importer), and read others as something else
without a word, as their sources show: `Shape` has no start and end, `ReduceMean` and `ReduceMax` have no axes input,
a `Constant` of integers is empty, and integers are of 32 bits. Whatever is left of these is refused here.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from ...engines.targets import OPSET17_OPERATORS
from ...errors import InputError
from ...inspection.values import TypedGraph, ValueType, type_graph
from .additions import Additions
from .edit import weights
from .opset17_rewrites import REWRITES

OPSET = 17
_IR_VERSION = 8
_INT32 = np.iinfo(np.int32)
_INTEGERS = onnx.TensorProto.INT64
_MEANS = ("ReduceMax", "ReduceMean")
# Others are refused by the parsers, or become one of these.
_TYPES = frozenset({"float32", "float16", "int64", "int32", "bool"})


def to_opset17(model: onnx.ModelProto) -> None:
    """Rewrite a lowered graph in place, as equal as its own types allow; its int64 ports become int32.

    Operators of other domains are left to a plugin. Raises InputError for what cannot be written so.
    """
    graph = model.graph
    _store_constants(graph)
    _name_nodes(graph)
    typed, added, replaced = _typed(model), Additions(graph), set()
    for node in graph.node:
        if not node.domain and node.op_type in REWRITES and REWRITES[node.op_type](node, typed.types, added):
            replaced.add(node.output[0])
    stored = weights(graph)
    for node in graph.node:
        if not node.domain and node.op_type in _MEANS:
            _axes_as_attribute(node, stored)
    added.apply(replaced)
    _narrow_ports(graph)
    _narrow_weights(graph)
    model.ir_version = _IR_VERSION
    for opset in model.opset_import:
        if not opset.domain:
            opset.version = OPSET
    refuse_misread(model)


def refuse_misread(model: onnx.ModelProto) -> None:
    """Raise InputError that names the nodes which TensorRT 8's parser has no importer for, or reads as others."""
    stored, types = weights(model.graph), _typed(model).types
    faults = []
    for node in model.graph.node:
        if not node.domain and (fault := _fault(node, stored, types)):
            faults.append(f"{node.name} ({fault})")
    faults += [f"{name} (of {value.dtype})" for name, value in types.items() if value.dtype not in _TYPES]
    faults += [
        f"{value.name} (a port of 64 bits)"
        for value in (*model.graph.input, *model.graph.output)
        if value.type.tensor_type.elem_type == _INTEGERS
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise InputError(f"TensorRT 8 cannot take graph {model.graph.name!r}: {', '.join(faults[:3])}{more}.")


def _fault(
    node: onnx.NodeProto,
    stored: Mapping[str, onnx.TensorProto],
    types: Mapping[str, ValueType],
) -> str | None:
    if node.op_type not in OPSET17_OPERATORS:
        return f"no importer for {node.op_type}"
    schema, names = defs.get_schema(node.op_type, OPSET), {attribute.name for attribute in node.attribute}
    if names - {*schema.attributes} or not schema.min_input <= len(node.input) <= schema.max_input:
        return f"{node.op_type} of a newer opset than {OPSET}"
    if node.op_type == "Shape" and names:
        return "Shape with start or end"
    if node.op_type.startswith("Reduce") and types[node.input[0]].dtype not in ("float32", "float16"):
        return f"{node.op_type} of integers"
    # An axis that is computed is refused by the parser; of these it would be forgotten.
    if node.op_type == "ReduceSum" and (len(node.input) != 2 or node.input[1] not in stored):
        return "ReduceSum without stored axes"
    return None


def _typed(model: onnx.ModelProto) -> TypedGraph:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return type_graph(copy)


def _store_constants(graph: onnx.GraphProto) -> None:
    """Constants become initializers: the parser takes no integers from a Constant's lists."""
    kept = []
    for node in graph.node:
        if node.domain or node.op_type != "Constant":
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        (attribute,) = node.attribute
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            value = numpy_helper.to_array(value)
        elif attribute.name not in ("value_int", "value_ints", "value_float", "value_floats"):
            raise InputError(f"TensorRT 8 cannot take graph {graph.name!r}: {node.output[0]} is no array of numbers.")
        kind = np.float32 if attribute.name.startswith("value_float") else None
        graph.initializer.append(numpy_helper.from_array(np.array(value, kind), node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Inlined nodes have no name; layers get that of their node, and are pinned by it."""
    for node in graph.node:
        node.name = node.name or node.output[0]


def _axes_as_attribute(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> None:
    if len(node.input) < 2:
        return
    if node.input[1] not in stored:
        raise InputError(f"TensorRT 8 cannot take {node.name}: its axes are computed.")
    axes = numpy_helper.to_array(stored[node.input[1]]).tolist()
    kept = [attribute for attribute in node.attribute if attribute.name == "keepdims"]
    keep = kept[0].i if kept else 1
    del node.input[1:], node.attribute[:]
    node.attribute.extend([helper.make_attribute("axes", axes), helper.make_attribute("keepdims", keep)])


def _narrow_ports(graph: onnx.GraphProto) -> None:
    """Engines have int32 ports in place of int64 ones; inside, integers stay as ONNX wants them."""
    added, wide = Additions(graph), {}
    for value in graph.input:
        if value.type.tensor_type.elem_type == _INTEGERS:
            value.type.tensor_type.elem_type = onnx.TensorProto.INT32
            wide[value.name] = added.node("Cast", [value.name], f"{value.name}/int64", to=_INTEGERS)
    for node in graph.node:
        # Lengths have no type, and are read off the input itself.
        for i, name in enumerate(node.input if node.op_type != "Shape" else ()):
            node.input[i] = wide.get(name, name)
    added.apply(set())


def _narrow_weights(graph: onnx.GraphProto) -> None:
    """Bounds of slices beyond 32 bits mean "to the end"; the parser would clamp any other number too."""
    bounds = {name for node in graph.node if node.op_type == "Slice" for name in node.input[1:3]}
    others = {name for node in graph.node if node.op_type != "Slice" for name in node.input}
    for tensor in graph.initializer:
        if tensor.data_type != _INTEGERS or tensor.data_location == tensor.EXTERNAL:
            continue
        array = numpy_helper.to_array(tensor)
        narrow = array.clip(_INT32.min, _INT32.max)
        if (narrow != array).any():
            if tensor.name not in bounds or tensor.name in others:
                raise InputError(f"TensorRT 8 cannot take {tensor.name}: it holds numbers beyond 32 bits.")
            tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))
