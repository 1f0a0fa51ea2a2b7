"""Builds networks with the plugin under TensorRT, without a GPU; prints what became of each as JSON.

Arguments: the plugin library, or `python` for the stand-in in Python; then a JSON file, a list of
{"onnx": path, "shapes": {input: [min, opt, max]}}.
"""

import json
import re
import sys
from pathlib import Path

import tensorrt as trt

OPERATOR = "VisualMemoryFFN"


class Log(trt.ILogger):
    """Keeps what is said. TensorRT holds on to the first logger of a process, so there is one."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[tuple[trt.ILogger.Severity, str]] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        self.lines.append((severity, message))


LOG = Log()


def build(case: dict) -> dict:
    """What became of the network.

    layers: types of those parsed. size: of the engine, 0 where it was refused. fused: plugin layers. errors: messages.
    kept: what follows the name of the plugin's field `workspace` in the engine, in hex.
    """
    LOG.lines.clear()
    builder = trt.Builder(LOG)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, LOG)
    size, kept = 0, []
    if parser.parse_from_file(case["onnx"]):
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        profile = builder.create_optimization_profile()
        for name, shapes in case["shapes"].items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        size = engine.nbytes if engine else 0
        kept = [found.hex() for found in re.findall(rb"workspace(.{120})", bytes(engine), re.DOTALL)] if engine else []
    listed = "\n".join(text for _, text in LOG.lines if text.lstrip().startswith("Layers:"))
    fused = re.findall(r"^Name: (\S+), LayerType: custom_layer, (.*)$", listed, re.MULTILINE)
    return {
        "layers": [network.get_layer(i).type.name for i in range(network.num_layers)],
        "size": size,
        "kept": kept,
        "fused": [{"name": name, "types": re.findall(r"Datatype: (\w+)", rest)} for name, rest in fused],
        "errors": [text for severity, text in LOG.lines if severity <= trt.ILogger.ERROR],
    }


def main(plugin: str, cases: str) -> None:
    registry = trt.get_plugin_registry()
    if plugin == "python":
        from python_plugin import Creator

        creator = Creator(lambda message: LOG.log(trt.ILogger.ERROR, message))
        registry.register_creator(creator, creator.plugin_namespace)
    else:
        registry.load_library(plugin)
    (creator,) = [one for one in registry.all_creators if one.name == OPERATOR]
    contract = {
        "operator": creator.name,
        "version": creator.plugin_version,
        "namespace": creator.plugin_namespace,
        "fields": {field.name: field.type.name for field in creator.field_names},
    }
    built = [build(case) for case in json.loads(Path(cases).read_text())]
    print(json.dumps({"creator": contract, "networks": built}))


main(*sys.argv[1:])
