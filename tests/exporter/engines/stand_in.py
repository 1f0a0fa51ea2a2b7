"""Build a recipe with the plugin's stand-in in Python: python stand_in.py RECIPE. Prints what build_engine prints."""

import json
import sys
from pathlib import Path

import tensorrt as trt
from memvp_export.exporter.engines import build_engine

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins" / "tensorrt"))
from python_plugin import Creator

creator = Creator(lambda message: print(message, file=sys.stderr))
trt.get_plugin_registry().register_creator(creator, creator.plugin_namespace)
try:
    record = build_engine.build(sys.argv[1])
    print(json.dumps({key: record[key] for key in ("plugin", "plugin_layers", "network_plugin_layers")}))
except build_engine.EngineError as error:
    print(json.dumps({"error": str(error), "kind": error.kind}))
