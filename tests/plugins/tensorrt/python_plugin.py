"""VisualMemoryFFN as a TensorRT plugin in Python: it stands in for the library where that cannot be compiled.

What it takes is read from the contract, plugins/visual_memory_ffn.yaml. It goes through parser and builder; it cannot
compute anything. Importable where TensorRT is.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorrt as trt
import yaml

CONTRACT = yaml.safe_load((Path(__file__).parents[3] / "plugins" / "visual_memory_ffn.yaml").read_text())
TYPES = {"float32": trt.float32, "float16": trt.float16, "bfloat16": trt.bfloat16}
FIELD_TYPES = {"float32": trt.PluginFieldType.FLOAT32, "string": trt.PluginFieldType.CHAR}


class Reporting:
    """TensorRT takes an exception for a no, and does not pass on what it says."""

    report: Callable[[str], None]

    def require(self, true: bool, otherwise: str) -> None:
        if not true:
            self.report(otherwise)
            raise ValueError(otherwise)


class Plugin(Reporting, trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
    def __init__(self, attributes: dict[str, np.ndarray], report: Callable[[str], None]) -> None:
        trt.IPluginV3.__init__(self)
        trt.IPluginV3OneCore.__init__(self)
        trt.IPluginV3OneBuild.__init__(self)
        trt.IPluginV3OneRuntime.__init__(self)
        self.plugin_name, self.plugin_version = CONTRACT["operator"], CONTRACT["version"]
        self.plugin_namespace = CONTRACT["namespace"]
        self.num_outputs = len(CONTRACT["outputs"])
        self.attributes, self.report = attributes, report
        kinds = {one["name"]: FIELD_TYPES[one["type"]] for one in CONTRACT["attributes"]}
        self.fields = trt.PluginFieldCollection(
            [trt.PluginField(name, value, kinds[name]) for name, value in attributes.items()]
        )

    def get_capability_interface(self, kind: trt.PluginCapabilityType) -> "Plugin":
        return self

    def clone(self) -> "Plugin":
        return Plugin(self.attributes, self.report)

    def get_output_data_types(self, types: list[trt.DataType]) -> list[trt.DataType]:
        self.require(types[0] in TYPES.values() and set(types) == {types[0]}, f"all inputs take one type, not {types}")
        return [types[0]]

    def get_output_shapes(
        self, inputs: list[trt.DimsExprs], shape_inputs: list[trt.DimsExprs], builder: trt.IExprBuilder
    ) -> list[trt.DimsExprs]:
        known: dict[str, int] = {}
        for shape, contract in zip(inputs, CONTRACT["inputs"], strict=True):
            self.require(len(shape) == len(contract["shape"]), f"{contract['name']} has {len(shape)} dimensions")
            for axis, (extent, name) in enumerate(zip(shape, contract["shape"], strict=True)):
                if not extent.is_constant():
                    self.require(name not in ("v", "p"), f"{name} of {contract['name']} is not fixed")
                    continue
                value = extent.get_constant_value()
                if not (axis in contract.get("broadcast", []) and value == 1):
                    self.require(known.setdefault(name, value) == value, f"{name} is {known[name]} and {value}")
        self.require(known["v"] <= known["p"], f"v is {known['v']}, p only {known['p']}")
        return [inputs[0]]

    def supports_format_combination(
        self, position: int, described: list[trt.DynamicPluginTensorDesc], inputs: int
    ) -> bool:
        one = described[position].desc
        return one.format == trt.TensorFormat.LINEAR and one.type == described[0].desc.type

    def configure_plugin(self, inputs: list, outputs: list) -> None:
        pass

    def on_shape_change(self, inputs: list, outputs: list) -> None:
        pass

    def set_tactic(self, tactic: int) -> None:
        pass

    def attach_to_context(self, context: trt.IPluginResourceContext) -> "Plugin":
        return self.clone()

    def get_fields_to_serialize(self) -> trt.PluginFieldCollection:
        return self.fields

    def enqueue(self, *arguments: object) -> None:
        raise NotImplementedError("the stand-in has no kernels")


class Creator(Reporting, trt.IPluginCreatorV3One):
    def __init__(self, report: Callable[[str], None]) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.report = report
        self.name, self.plugin_version = CONTRACT["operator"], CONTRACT["version"]
        self.plugin_namespace = CONTRACT["namespace"]
        self.field_names = trt.PluginFieldCollection(
            [trt.PluginField(a["name"], np.array([]), FIELD_TYPES[a["type"]]) for a in CONTRACT["attributes"]]
        )

    def create_plugin(self, name: str, fields: trt.PluginFieldCollection, phase: trt.TensorRTPhase) -> Plugin:
        given = {field.name: field for field in fields}
        for attribute in CONTRACT["attributes"]:
            field = given.get(attribute["name"])
            right = field is not None and field.type == FIELD_TYPES[attribute["type"]]
            self.require(right, f"the attribute {attribute['name']!r} ({attribute['type']}) is missing")
            if values := attribute.get("values"):
                value = field.data.tobytes().rstrip(b"\0").decode()
                self.require(value in values, f"the {attribute['name']} {value!r} is unknown")
        # TensorRT's own fields live no longer than this call.
        return Plugin({name: np.array(field.data) for name, field in given.items()}, self.report)
