"""The element type and shape of every value of a graph, with numbers put in for its named dimensions.

Nothing here reads weights: a graph is loaded without its external data, and large inline weights are dropped.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper, shape_inference

from ..dims import Dim, length, terms
from ..errors import EnvironmentLack, InputError

_SHORT = {"FLOAT": "float32", "DOUBLE": "float64"}
# Values up to this many elements can be shapes, axes or index ranges; everything else is data.
_SHAPE_ELEMENTS = 1 << 20
_INLINE_ELEMENTS = 1 << 12
_ROUNDS = 8
_ARITHMETIC = frozenset(("Add", "Div", "Equal", "Max", "Min", "Mod", "Mul", "Neg", "ReduceProd", "Sub", "Where"))
_REARRANGING = frozenset(("Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"))
_CREATING = frozenset(("Constant", "ConstantOfShape", "Range"))


@dataclass(frozen=True)
class ValueType:
    """dtype as in "float16"; dims None where the rank is unknown, a single None where one length is."""

    dtype: str
    dims: tuple[int | None, ...] | None

    @property
    def known(self) -> bool:
        """Whether every length is a number."""
        return self.dims is not None and None not in self.dims


@dataclass(frozen=True)
class TypedGraph:
    """A graph's nodes and what is known of its values by name. `static` values follow from weights alone."""

    model: onnx.ModelProto
    types: Mapping[str, ValueType]
    static: frozenset[str]

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes of the main graph, in order."""
        return list(self.model.graph.node)

    def function(self, node: onnx.NodeProto) -> bool:
        """Whether the node calls a function whose body the file holds."""
        return any((f.domain, f.name) == (node.domain, node.op_type) for f in self.model.functions)


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file without its external data; InputError where it is none, EnvironmentLack where it may not be
    read."""
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path} is not an ONNX graph, or it is cut short.") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"{path} is not a file.") from error
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be read: {error.strerror}.") from error
    if not model.graph.node or not model.opset_import:
        raise InputError(f"{path} is not an ONNX graph: it holds no nodes.")
    # protobuf hands a name that is not UTF-8 over as bytes.
    if any(isinstance(text, bytes) for text in _names(model)):
        raise InputError(f"{path} is damaged: it holds a name that is not text.")
    for node in model.graph.node:
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    return model


def _names(model: onnx.ModelProto) -> Iterator[str | bytes]:
    graph = model.graph
    yield from (graph.name, model.producer_name)
    for node in (*graph.node, *(node for function in model.functions for node in function.node)):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
    for tensor in graph.initializer:
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    for value in (*graph.input, *graph.output):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    yield from (text for entry in model.metadata_props for text in (entry.key, entry.value))
    yield from (entry.domain for entry in model.opset_import)


def dtype_name(data_type: int) -> str:
    """An ONNX element type as the manifest writes it: "float32", "float16", "bfloat16", "int64"."""
    if data_type not in onnx.TensorProto.DataType.values():
        return f"unknown type {data_type}"
    name = onnx.TensorProto.DataType.Name(data_type)
    return _SHORT.get(name, name.lower())


def dims_of(value: onnx.ValueInfoProto) -> list[Dim]:
    """Declared dimensions: a number, a name, or None where nothing is said."""
    shape = value.type.tensor_type.shape
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in shape.dim]


def dimension_names(model: onnx.ModelProto) -> list[str]:
    """The names that the inputs' dimensions are made of, in order of appearance."""
    weights = {tensor.name for tensor in model.graph.initializer}
    named = (d for v in model.graph.input if v.name not in weights for d in dims_of(v) if isinstance(d, str))
    return list(dict.fromkeys(term for dim in named for term in terms(dim) if not term.isdigit()))


def default_size(dimension: str) -> int:
    """The length a named dimension gets when none is given: an empty past, sequences of 64, one of all else."""
    if "past" in dimension:
        return 0
    return 64 if "sequence" in dimension else 1


def type_graph(
    model: onnx.ModelProto, sizes: Mapping[str, int] | None = None, static: Iterable[str] = ()
) -> TypedGraph:
    """Infer every value's type with `sizes` for the named dimensions (names without a size get `default_size`).

    `model` is changed: inline weights lose their values. static names inputs that count as weights.
    """
    _drop_weight_values(model)
    work = onnx.ModelProto()
    work.CopyFrom(model)
    del work.graph.value_info[:]
    _set_sizes(work, sizes or {})
    _stand_in_for_memory(work)
    constants = _small_constants(work)
    types = _infer(work)
    for _ in range(_ROUNDS):
        if all(types.known for types in types.values()):
            break
        found = _fold(work, constants, types)
        if not found:
            break
        types = {**types, **_infer(work)}
    return TypedGraph(model, types, _static(model, static))


def _drop_weight_values(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and elements(tensor) > _INLINE_ELEMENTS:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)


def elements(tensor: onnx.TensorProto) -> int:
    """How many numbers a tensor has, whether or not they are there."""
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count


def _set_sizes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> None:
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                named = dim.dim_param or "1"
                dim.dim_value = length(named, {name: default_size(name) for name in terms(named)} | dict(sizes))
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _infer(model: onnx.ModelProto) -> dict[str, ValueType]:
    try:
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:
        raise InputError(f"the shapes of graph {model.graph.name!r} do not fit together: {error}") from error
    types = {tensor.name: ValueType(dtype_name(tensor.data_type), tuple(tensor.dims)) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor_type = value.type.tensor_type
        if tensor_type.elem_type:
            dims = tuple(d if isinstance(d, int) else None for d in dims_of(value))
            types[value.name] = ValueType(dtype_name(tensor_type.elem_type), dims if _ranked(value) else None)
    return types


def _ranked(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.HasField("shape")


def _stand_in_for_memory(model: onnx.ModelProto) -> None:
    # A memory operator may have no body (plugin lowering). Its result is like its second input.
    for node in model.graph.node:
        if node.domain == "memvp" and len(node.input) > 1:
            node.CopyFrom(onnx.helper.make_node("Identity", [node.input[1]], node.output[:1]))


def _small_constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    integers = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type in integers
        and len(tensor.dims) <= 1
        and elements(tensor) <= _INLINE_ELEMENTS
        and tensor.data_location != onnx.TensorProto.EXTERNAL
    }


def _fold(model: onnx.ModelProto, constants: dict[str, np.ndarray], types: Mapping[str, ValueType]) -> int:
    """Replace computable shape arithmetic by its results, and return how many nodes that were.

    onnx's own inference carries shapes through Reshape and Expand, but not into Range, on which masks rest.
    """
    kept, folded = [], 0
    for node in model.graph.node:
        result = _evaluate(node, constants, types)
        if result is None:
            kept.append(node)
            continue
        folded += 1
        constants[node.output[0]] = result
        model.graph.initializer.append(numpy_helper.from_array(result, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return folded


def _evaluate(
    node: onnx.NodeProto, constants: Mapping[str, np.ndarray], types: Mapping[str, ValueType]
) -> np.ndarray | None:
    if node.domain or len(node.output) != 1:
        return None
    if node.op_type == "Shape":
        source = types.get(node.input[0])
        if source is None or source.dims is None or not source.known:
            return None
        limits = {a.name: a.i for a in node.attribute}
        return np.array(source.dims[limits.get("start", 0) : limits.get("end", len(source.dims))], np.int64)
    names = [name for name in node.input if name]
    if node.op_type not in _ARITHMETIC | _REARRANGING | _CREATING or not all(name in constants for name in names):
        return None
    from onnx.reference import ReferenceEvaluator

    try:
        if _elements_touched(node, [constants[name] for name in names]) > _SHAPE_ELEMENTS:
            return None
        evaluator: Any = ReferenceEvaluator(node)
        result = np.asarray(evaluator.run(None, {name: constants[name] for name in names})[0])
    except Exception:
        # Not computable is not wrong: what follows stays unknown and is reported as uncounted.
        return None
    return result if result.ndim <= 1 and result.dtype.kind in "iub" else None


def _elements_touched(node: onnx.NodeProto, inputs: list[np.ndarray]) -> int:
    """How large a node's work is: a file from outside must not be able to ask for a huge range."""
    if node.op_type == "ConstantOfShape":
        return int(np.prod(inputs[0], dtype=np.float64))
    if node.op_type == "Range":
        start, limit, step = (int(value) for value in inputs)
        return max(0, (limit - start) // step)
    return sum(value.size for value in inputs)


def _static(model: onnx.ModelProto, more: Iterable[str]) -> frozenset[str]:
    static = {tensor.name for tensor in model.graph.initializer} | set(more)
    for node in model.graph.node:
        if all(name in static for name in node.input if name):
            static.update(node.output)
    return frozenset(static)
