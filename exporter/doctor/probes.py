"""What the doctor asks native libraries, in a process that may die of it:  python -m <this> NAME [ARGUMENT]

Prints one JSON object; a failure is {"error": message}.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...plugins.loader import library_info
from ..engines.build_engine import Cuda, import_tensorrt
from ..engines.engine_error import EngineError
from ..errors import ToolError

_COPIED = 1 << 20
# Enough to tell a library of TensorRT or CUDA by its file's name.
_LIBRARIES = ("libnvinfer", "libtensorrt", "libnvonnxparser", "libcudart")


def tensorrt(module: str, target: str) -> dict[str, Any]:
    """installed; then version and folder of a target's module, and the files of the libraries that came with it.
    Raises EngineError where it is there and cannot be used."""
    if importlib.util.find_spec(module) is None:
        return {"installed": False}
    trt = import_tensorrt(module, target)
    return {
        "installed": True,
        "version": trt.__version__,
        "folder": str(Path(trt.__file__).resolve().parent),
        "libraries": _loaded(),
    }


def _loaded() -> list[str]:
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    files = {line.split(maxsplit=5)[-1] for line in mapped if "/" in line}
    return sorted(file for file in files if Path(file).name.startswith(_LIBRARIES))


def cuda() -> dict[str, Any]:
    """gpu: None with the reason, or the first one's properties, after a copy to it and back came back unchanged."""
    if reason := Cuda.available():
        return {"gpu": None, "reason": reason}
    device = Cuda()
    sent = bytearray(range(256)) * (_COPIED // 256)
    back = bytearray(_COPIED)
    pointer = device.malloc(_COPIED)
    device.upload(pointer, sent, _COPIED)
    device.download(back, pointer, _COPIED)
    device.synchronize()
    if back != sent:
        raise EngineError("a copy to the GPU came back changed", "environment")
    device.free(pointer)
    return {"gpu": {**device.device(), "free": device.memory()[0]}, "copied": _COPIED}


def plugin(path: str) -> dict[str, Any]:
    """What the plugin library at `path` says of itself, as PluginInfo."""
    return library_info(Path(path)).to_dict()


def main() -> int:
    """Do what the command line says; returns the exit code."""
    probes: dict[str, Callable[..., dict[str, Any]]] = {"tensorrt": tensorrt, "cuda": cuda, "plugin": plugin}
    try:
        print(json.dumps(probes[sys.argv[1]](*sys.argv[2:])))
    except (EngineError, ToolError) as error:
        print(json.dumps({"error": str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
