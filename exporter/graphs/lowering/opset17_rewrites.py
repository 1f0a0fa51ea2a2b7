"""What stands in opset 17, as TensorRT 8 reads it, in place of single nodes of newer forms."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ...errors import InputError
from ...inspection.values import ValueType
from .additions import Additions

# Of Resize: what opset 17 has no words for is what it does.
_AS_EVER = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}


def _cast_like(node: onnx.NodeProto, types: Mapping[str, ValueType], added: Additions) -> bool:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(types[node.input[1]].dtype))
    added.node("Cast", [node.input[0]], node.output[0], to=to)
    return True


def _gelu(node: onnx.NodeProto, types: Mapping[str, ValueType], added: Additions) -> bool:
    """`x (1 + erf(x / sqrt 2)) / 2`, or `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`, in x's own type."""
    (x,), dtype = node.input, types[node.input[0]].dtype

    def number(value: float, name: str) -> str:
        return added.constant(np.array(value, dtype), f"opset17/{name}/{dtype}")

    def value(kind: str, inputs: list[str], name: str) -> str:
        return added.node(kind, inputs, f"{node.name}/{name}")

    if any(attribute.name == "approximate" and attribute.s == b"tanh" for attribute in node.attribute):
        # As x + x (0.044715 x^2), whose parts stay within half precision where x does not fill it.
        cube = value(
            "Mul", [x, value("Mul", [value("Mul", [x, x], "square"), number(0.044715, "cube")], "part")], "cube"
        )
        inner = value("Mul", [value("Add", [x, cube], "sum"), number(np.sqrt(2 / np.pi), "sqrt_2_pi")], "scaled")
        bent = value("Tanh", [inner], "tanh")
    else:
        bent = value("Erf", [value("Div", [x, number(np.sqrt(2), "sqrt_2")], "scaled")], "erf")
    gate = value("Add", [bent, number(1, "one")], "gate")
    added.node("Mul", [value("Mul", [x, gate], "doubled"), number(0.5, "half")], node.output[0])
    return True


def _split(node: onnx.NodeProto, types: Mapping[str, ValueType], added: Additions) -> bool:
    """One Slice for each part: a layer of the engine then has the name of one node."""
    limits = {attribute.name: attribute.i for attribute in node.attribute}
    dims = [types[name].dims for name in node.output]
    axis = limits.get("axis", 0) % len(dims[0] or (0,))
    sizes = [part[axis] if part else None for part in dims]
    end = 0
    for output, size in zip(node.output, sizes, strict=True):
        if size is None:
            raise InputError(f"TensorRT 8 cannot take {node.name}: the sizes of its parts are not static.")
        start, end = end, end + size
        bounds = [added.constant(np.array([i]), f"opset17/{i}") for i in (start, end, axis)]
        added.node("Slice", [node.input[0], *bounds], output)
    return True


def _shape(node: onnx.NodeProto, types: Mapping[str, ValueType], added: Additions) -> bool:
    """Some lengths are gathered from all of them."""
    limits = {attribute.name: attribute.i for attribute in node.attribute}
    (source,) = node.input
    dims = types[source].dims
    if dims is None:
        raise InputError(f"TensorRT 8 cannot take {node.name}: the number of dimensions of {source} is not known.")
    axes = range(len(dims))[limits.get("start") : limits.get("end")]
    if len(axes) == len(dims):
        del node.attribute[:]
        return False
    whole = added.node("Shape", [source], f"{source}/lengths")
    name = f"opset17/{'_'.join(map(str, axes))}"
    added.node("Gather", [whole, added.constant(np.array(axes, np.int64), name)], node.output[0], axis=0)
    return True


def _resize(node: onnx.NodeProto, types: Mapping[str, ValueType], added: Additions) -> bool:
    """Newer attributes that say what an older Resize does anyway go."""
    kept = [one for one in node.attribute if helper.get_attribute_value(one) != _AS_EVER.get(one.name)]
    del node.attribute[:]
    node.attribute.extend(kept)
    return False


def _instance_norm(node: onnx.NodeProto, types: Mapping[str, ValueType], added: Additions) -> bool:
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias` over all dimensions behind the channels, in x's own type:
    the parsers leave it to a library of plugins."""
    x, scale, bias = node.input
    value = types[x]
    if value.dims is None:
        raise InputError(f"TensorRT 8 cannot take {node.name}: the number of dimensions of {x} is not known.")
    behind = list(range(2, len(value.dims)))
    axes = added.constant(np.array(range(1, len(behind) + 1)), f"opset17/axes_{len(behind)}")
    epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
    least = added.constant(np.array(epsilon, value.dtype), f"opset17/epsilon_{epsilon:.7g}/{value.dtype}")

    def made(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        return added.node(kind, inputs, f"{node.name}/{name}", **attributes)

    centred = made("Sub", [x, made("ReduceMean", [x], "mean", axes=behind)], "centred")
    variance = made("ReduceMean", [made("Mul", [centred, centred], "squared")], "variance", axes=behind)
    normed = made("Div", [centred, made("Sqrt", [made("Add", [variance, least], "least")], "deviation")], "normed")
    scaled = made("Mul", [normed, made("Unsqueeze", [scale, axes], "scale")], "scaled")
    added.node("Add", [scaled, made("Unsqueeze", [bias, axes], "bias")], node.output[0])
    return True


REWRITES: dict[str, Callable[[onnx.NodeProto, Mapping[str, ValueType], Additions], bool]] = {
    "CastLike": _cast_like,
    "Gelu": _gelu,
    "InstanceNormalization": _instance_norm,
    "Resize": _resize,
    "Shape": _shape,
    "Split": _split,
}
