"""Build a recipe and print which of TensorRT's objects are still there when the engine is read back."""

import json
import sys
import weakref
from typing import Any

from memvp_export.exporter.engines import build_engine

watched: dict[str, Any] = {}
builder, parse, write, read_back = (
    getattr(build_engine, name) for name in ("make_builder", "_parse", "_write_whole", "_read_back")
)


def watched_builder(*arguments: Any) -> Any:
    made = builder(*arguments)
    watched["builder"] = weakref.ref(made)
    return made


def watched_parse(trt: Any, network: Any, *rest: Any) -> None:
    watched["network"] = weakref.ref(network)
    parse(trt, network, *rest)


def watched_write(path: Any, data: memoryview) -> Any:
    if path.suffix == ".engine":
        watched["plan"] = weakref.ref(data.obj)
    return write(path, data)


def watched_read_back(*arguments: Any) -> Any:
    held = [name for name, there in watched.items() if there() is not None]
    print(json.dumps({"held": held, "watched": sorted(watched)}))
    return read_back(*arguments)


build_engine.make_builder, build_engine._parse = watched_builder, watched_parse
build_engine._write_whole, build_engine._read_back = watched_write, watched_read_back
build_engine.build(sys.argv[1])
