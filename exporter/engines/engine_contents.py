"""What is in an engine: from the inspector of a loaded one, or from the log of its build where no GPU can load it."""

from __future__ import annotations

import json
import re
from typing import Any

from .tensorrt_module import activation_bytes, bare_context

_DTYPES = {
    **dict.fromkeys(("float", "fp32", "float32"), "float32"),
    **dict.fromkeys(("half", "fp16", "float16"), "float16"),
    **dict.fromkeys(("bfloat16", "bf16"), "bfloat16"),
    **dict.fromkeys(("fp8", "float8", "float8e4m3fn"), "float8e4m3fn"),
    **{name: name for name in ("int64", "int32", "int8", "uint8", "int4", "bool")},
}
_TENSOR = re.compile(r"\{ Name: (.*?), (?:Location: \w+, )?Dimensions: \[([-\d,]*)\],(.*?)\}")
_PORT = re.compile(r"^ *Name: (.*?), IOMode: (\w+), DataType: (\w+), Dimensions: \[([-\d,]*)\](.*)$", re.MULTILINE)
_RANGE = re.compile(r"MinShape: \[([-\d,]*)\], OptShape: \[([-\d,]*)\], MaxShape: \[([-\d,]*)\]")
_PROFILE = re.compile(r"(.*) \[profile (\d+)\].*")
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def dtype_name(text: str) -> str:
    """A type as NumPy names it, from TensorRT's many ways: "Half", "DataType.HALF", "Row major linear FP16 format"."""
    words = [word.lower() for word in re.findall(r"\w+", text)]
    return next((_DTYPES[word] for word in words if word in _DTYPES), "unknown")


def of_profile(name: str) -> tuple[str, int]:
    """A name without what TensorRT appends from the second profile on, and the number of its profile."""
    found = _PROFILE.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, 0)


def layer_names(metadata: str | None) -> list[str]:
    """The ONNX nodes that a layer's metadata names."""
    return _ONNX.findall(metadata or "")


def layers_of_log(text: str) -> list[dict[str, Any]]:
    """The layers in the listing that a build with detailed profiling verbosity logs; see `record` for their keys."""
    layers = []
    for line in text.split("I/O Tensors:")[0].splitlines():
        found = re.match(r"Name: (.*?), LayerType: ([^,]*)(.*)", line)
        if not found:
            continue
        # The pieces after each heading: ["", "Inputs", "{...} ]", "Outputs", ...].
        pieces = re.split(r", (Inputs|Constants|Outputs): \[", found[3].split(", TacticName: ")[0])
        layer: dict[str, Any] = {"name": found[1], "type": found[2]}
        for kind in ("Inputs", "Constants", "Outputs"):
            piece = pieces[pieces.index(kind) + 1] if kind in pieces else ""
            layer[kind.lower()] = [_tensor(*match) for match in _TENSOR.findall(piece)]
        layers.append(dict(layer, onnx=layer_names(line)))
    return layers


def _tensor(name: str, dims: str, rest: str) -> dict[str, Any]:
    dtype = re.search(r"Datatype: (\w+)", rest)
    return {"name": name, "dtype": dtype_name(dtype[1] if dtype else rest), "dims": _dims(dims)}


def _dims(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def ports_of_log(text: str, names: list[str]) -> dict[str, Any]:
    """inputs, outputs and profiles in the same listing; `names` are those of the profiles, in their order."""
    ports: dict[str, Any] = {"inputs": [], "outputs": []}
    profiles: list[dict[str, Any]] = [{"name": name, "shapes": {}} for name in names]
    for name, mode, dtype, dims, rest in _PORT.findall(text):
        ports["inputs" if mode == "Input" else "outputs"].append(
            {"name": name, "dtype": dtype_name(dtype), "dims": _dims(dims)}
        )
        for index, shapes in enumerate(_RANGE.findall(rest)):
            lowest, usual, highest = map(_dims, shapes)
            profiles[index]["shapes"][name] = {"min": lowest, "opt": usual, "max": highest}
    return dict(ports, profiles=profiles)


def layers_of_inspector(text: str) -> list[dict[str, Any]]:
    """The layers in an engine inspector's JSON, of TensorRT 10 ("Format/Datatype") or 11 ("Datatype")."""
    layers = []
    for entry in json.loads(text)["Layers"]:
        # An engine built without detailed profiling verbosity has names alone.
        entry = {"Name": entry} if isinstance(entry, str) else entry
        constants = [_inspected(part) for part in entry.get("Constants", [])]
        if isinstance(entry.get("Weights"), dict):
            weights = entry["Weights"]
            constants.append(
                {"name": "weights", "dtype": dtype_name(weights.get("Type", "")), "dims": [weights.get("Count", 0)]}
            )
        layers.append(
            {
                "name": entry.get("Name", ""),
                "type": entry.get("LayerType", "unknown"),
                "inputs": [_inspected(part) for part in entry.get("Inputs", [])],
                "constants": constants,
                "outputs": [_inspected(part) for part in entry.get("Outputs", [])],
                "onnx": layer_names(entry["Metadata"]) if "Metadata" in entry else _named_nodes(entry.get("Name", "")),
            }
        )
    return layers


def _named_nodes(name: str) -> list[str]:
    """The nodes in a layer of an engine of TensorRT 8.5, which has no metadata: it is called "a + b" or "PWN(a, b)".

    What is called "{ForeignNode[a...b]}" holds all from a to b, and does not say what that is.
    """
    if hides_nodes(name):
        return []
    return [part for part in re.split(r" \+ |, |PWN\(|\)", of_profile(name)[0]) if part]


def hides_nodes(name: str) -> bool:
    """Whether a layer, by its name, is many nodes in one that TensorRT 8 tells nothing of."""
    return name.startswith("{ForeignNode[")


def _inspected(part: dict[str, Any]) -> dict[str, Any]:
    dtype = part.get("Datatype") or part.get("Format/Datatype") or part.get("Format") or ""
    return {"name": part.get("Name", ""), "dtype": dtype_name(dtype), "dims": part.get("Dimensions", [])}


def read_engine(trt: Any, engine: Any, names: list[str]) -> dict[str, Any]:
    """inputs, outputs, profiles, layers and activation (bytes) of a loaded engine; dims of layers and "opt" of outputs
    are those at the first profile's opt shapes."""
    context = _shaped_context(trt, engine)
    found: dict[str, Any] = {"inputs": [], "outputs": []}
    profiles: list[dict[str, Any]] = [
        {"name": names[i] if i < len(names) else f"profile{i}", "shapes": {}}
        for i in range(engine.num_optimization_profiles)
    ]
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = dtype_name(str(engine.get_tensor_dtype(name)))
        port = {"name": name, "dtype": dtype, "dims": list(engine.get_tensor_shape(name))}
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            found["inputs"].append(port)
            for number, profile in enumerate(profiles):
                shapes = map(list, engine.get_tensor_profile_shape(name, number))
                profile["shapes"][name] = {key: next(shapes) for key in ("min", "opt", "max")}
        else:
            found["outputs"].append(dict(port, opt=list(context.get_tensor_shape(name))) if context else port)
    inspector = engine.create_engine_inspector()
    if context:
        inspector.execution_context = context
    layers = layers_of_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return dict(found, profiles=profiles, layers=layers, activation=activation_bytes(engine))


def _shaped_context(trt: Any, engine: Any) -> Any:
    """A context at the first profile's opt shapes, None where there can be none: without shapes TensorRT 10 says
    neither dims nor types of some layers."""
    context = bare_context(trt, engine)
    for index in range(engine.num_io_tensors if context else 0):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            context.set_input_shape(name, engine.get_tensor_profile_shape(name, 0)[1])
    return context
