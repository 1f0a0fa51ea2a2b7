"""Build, read back and run a TensorRT engine with nothing but TensorRT and the standard library of Python 3.8.

    python -m memvp_engine.build_engine build RECIPE [--plugin LIBRARY]   lowered ONNX + recipe -> engine + record
    python -m memvp_engine.build_engine ready RECIPE [--plugin LIBRARY]   whether this machine has what that build needs
    python -m memvp_engine.build_engine run ENGINE --inputs DIR --outputs DIR   arrays as <tensor>.npy; needs a GPU
    python -m memvp_engine.build_engine info [ENGINE]                     this machine, or an engine (needs a GPU)

`memvp-export trt` starts this module as a process of its own; `trt --lower-only` copies the files in PARTS as the
package memvp_engine, so that a Jetson or a GPU host with an older Python builds in the same way. Standard output
carries one JSON object a line: progress, and at the end a result or {"error", "kind"}. Exit codes: 0 done, 1 the
engine is not what was asked for, 2 bad input, 3 the machine lacks something.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .build_failure import build_failure
from .cuda_runtime import Cuda
from .engine_contents import layer_names, layers_of_log, of_profile, ports_of_log, read_engine
from .engine_error import EXIT_CODES, EngineError
from .engine_run import run
from .host_code import holds_only
from .preparation import cache_update, load_timing_cache, make_builder, plugin_library
from .progress_monitor import progress_monitor
from .tensorrt_module import MODULES, flavor, import_tensorrt, load_engine, load_plugin, logger, with_reason
from .weak_typing import configure_weakly_typed, pin_layers

SCHEMA = 1
# Every file of this package that building needs.
PARTS = (
    *("build_engine.py", "build_failure.py", "cuda_runtime.py", "engine_contents.py", "engine_error.py"),
    *("engine_run.py", "host_code.py", "npy.py", "preparation.py", "progress_monitor.py", "shared_library.py"),
    *("tensorrt_module.py", "weak_typing.py"),
)


def build(recipe_path: str | Path, plugin: str | None = None, tell: Any = lambda **fields: None) -> dict[str, Any]:
    """Build the engine of a recipe, write it and its record beside the recipe, and return the record.

    plugin takes the place of the recipe's library; tell is called with stage and percent. The record is JSON data:
    schema, engine (file, size, sha256), recipe_sha256, tensorrt, module, flavor, gpu, platform, plugin, seconds,
    peak_mib, read_from ("inspector", or "log" without a GPU), inputs and outputs (name, dtype, dims), profiles,
    activation (bytes, with a GPU alone), plugin_layers, network_plugin_layers, pinned (nodes by type, of a weakly typed
    network alone), and layers: name, type, inputs,
    constants and outputs (name, dtype, dims), onnx (the nodes in it), matrix (whether a matrix product or convolution
    is among those), plugin. Both files appear whole or not at all. Raises EngineError.
    """
    recipe, digest = read_recipe(recipe_path)
    folder = Path(recipe_path).resolve().parent
    library = _library(recipe, folder, plugin)
    _check_carried(folder, recipe.get("carried") or {})
    trt, in_place = _tensorrt(recipe, library)
    log = logger(trt)
    log.layers = ""
    # All that TensorRT held for it is gone when that returns: on a GPU the engine is loaded in its place.
    made = _make(trt, recipe, in_place, folder, library, tell)
    tell(stage="read back")
    path = folder / recipe["engine"]
    device, contents = _read_back(trt, path, log, recipe)
    for layer in contents["layers"]:
        layer["matrix"] = any(name in made.matrices for name in layer["onnx"])
        layer["plugin"] = _is_plugin(layer["type"])
    record = {
        "schema": SCHEMA,
        "engine": {"file": recipe["engine"], "size": made.size, "sha256": made.sha256},
        "recipe_sha256": digest,
        "tensorrt": trt.__version__,
        "module": trt.__name__,
        "flavor": flavor(trt),
        "gpu": device and {key: device[key] for key in ("name", "sm", "driver")},
        "platform": {"system": platform.system(), "machine": platform.machine(), "python": platform.python_version()},
        "plugin": recipe["plugin"] and _plugin_entry(recipe["plugin"], library, path),
        "seconds": made.seconds,
        "peak_mib": _peak_mib(),
        **contents,
        "plugin_layers": _count_once(layer for layer in contents["layers"] if layer["plugin"]),
        "network_plugin_layers": made.plugin_layers,
        **({"pinned": made.pinned} if made.pinned is not None else {}),
    }
    _write_whole(folder / recipe["record"], memoryview(json.dumps(record, indent=1).encode()))
    return record


def ready(recipe_path: str | Path, plugin: str | None = None) -> dict[str, Any]:
    """Find out what a build would find out of this machine, before the work that leads to it: TensorRT, a builder, the
    plugin library, the timing cache. Returns TensorRT's version and flavor; raises EngineError.

    Of the recipe's keys this reads schema, target, cache, timing_cache and plugin; its graph need not be there.
    """
    recipe, _ = read_recipe(recipe_path)
    folder = Path(recipe_path).resolve().parent
    trt, _ = _tensorrt(recipe, _library(recipe, folder, plugin))
    builder = make_builder(trt, logger(trt))
    if recipe["timing_cache"]:
        load_timing_cache(trt, builder.create_builder_config(), folder / recipe["timing_cache"])
    return {"tensorrt": trt.__version__, "flavor": flavor(trt)}


def _tensorrt(recipe: dict[str, Any], library: Path | None) -> tuple[Any, Any]:
    """TensorRT of the recipe's target, with the plugin where the recipe has one, and its `cache_update`."""
    trt = import_tensorrt(MODULES[recipe["target"]][0], recipe["target"])
    in_place = cache_update(trt, recipe)
    del logger(trt).errors[:]
    if recipe["plugin"]:
        load_plugin(trt, library, recipe["plugin"]["operators"])
    return trt, in_place


def _library(recipe: dict[str, Any], folder: Path, given: str | None) -> Path | None:
    """See `plugin_library`. A library is given to all builds of a folder: EngineError where it is for none of them."""
    library = plugin_library(recipe, folder, given)
    if given is not None and not recipe["plugin"]:
        others = (read_recipe(path)[0] for path in folder.glob("*.recipe.json"))
        if not any(other.get("plugin") for other in others):
            message = (
                f"the engines of {folder} are native, and use no plugin library: leave --plugin out, or lower the "
                "bundle with `memvp-export trt --plugin on`."
            )
            raise EngineError(message, "input")
    return library


class _Made(NamedTuple):
    """What is known of an engine from its making: bytes and digest of its file, seconds of each stage, the network's
    plugin layers, the ONNX nodes that are matrix products, and how many nodes were pinned to their types."""

    size: int
    sha256: str
    seconds: dict[str, float]
    plugin_layers: int
    matrices: set[str]
    pinned: dict[str, int] | None


def _make(trt: Any, recipe: dict[str, Any], in_place: Any, folder: Path, library: Path | None, tell: Any) -> _Made:
    """Parse the graph, build the engine and write its file; an older record is removed. in_place: see
    `cache_update`."""
    start = time.time()
    tell(stage="parse")
    log = logger(trt)
    builder = make_builder(trt, log)
    network = builder.create_network(_network_flags(trt, recipe))
    _parse(trt, network, log, folder / recipe["onnx"])
    _require_updates(network, recipe, in_place)
    plugin_layers = _count_plugins(trt, network, recipe)
    matrices = _matrix_nodes(trt, network)
    pinned = pin_layers(trt, network, recipe["pinned"]) if recipe.get("pinned") else None
    config = _configure(trt, builder, network, recipe, folder, library, tell)
    parsed = time.time()
    tell(stage="build", percent=0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise build_failure(trt, recipe["component"], log.errors, recipe["workspace"])
    seconds = {"parse": round(parsed - start, 3), "build": round(time.time() - parsed, 3)}
    if recipe["timing_cache"]:
        with memoryview(config.get_timing_cache().serialize()) as data:
            _write_whole(folder / recipe["timing_cache"], data)
    record = folder / recipe["record"]
    # A record that is there speaks of an engine that is about to be replaced.
    if record.exists():
        record.unlink()
    with memoryview(plan) as data:
        size, sha256 = _write_whole(folder / recipe["engine"], data)
    return _Made(size, sha256, seconds, plugin_layers, matrices, pinned)


def _network_flags(trt: Any, recipe: dict[str, Any]) -> int:
    known = trt.NetworkDefinitionCreationFlag
    # TensorRT 8 would make networks without a batch; from 11 on every network is strongly typed, flag or none.
    name = "EXPLICIT_BATCH" if recipe.get("pinned") else "STRONGLY_TYPED"
    return 1 << int(getattr(known, name)) if hasattr(known, name) else 0


def read_recipe(path: str | Path) -> tuple[dict[str, Any], str]:
    """A recipe and the SHA-256 of its bytes; EngineError where it is damaged or of another schema."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        kind = "environment" if isinstance(error, PermissionError) else "input"
        raise EngineError(f"{path} is no recipe that can be read: {error.strerror}", kind) from error
    try:
        recipe = json.loads(text)
        schema, target = recipe["schema"], recipe["target"]
    except (ValueError, TypeError, KeyError) as error:
        raise EngineError(f"{path} is no recipe that can be read: {error}", "input") from error
    if schema != SCHEMA:
        message = f"{path} has schema {schema}, this build_engine.py reads {SCHEMA}: use the one that lies beside it."
        raise EngineError(message, "input")
    if target not in MODULES:
        raise EngineError(f"{path} is for the target {target!r}; here are {', '.join(MODULES)}.", "input")
    return recipe, hashlib.sha256(text).hexdigest()


def _check_carried(folder: Path, digests: dict[str, str]) -> None:
    """Raise EngineError where a graph or its weights are not the bytes that the recipe was written with."""
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file() or _sha256_file(path) != digest:
            raise EngineError(
                f"{path} is missing or damaged: its bytes are not those that were lowered. Copy it again.", "input"
            )


def _plugin_entry(plugin: dict[str, Any], library: Path | None, engine: Path) -> dict[str, Any]:
    """What the record says of the plugin that was built with; its build id comes from the library itself."""
    if library is None:
        return {"operators": plugin["operators"], "embedded": False, "sha256": None, "build_id": None}
    embedded = bool(plugin.get("embed")) and holds_only(engine, library)
    describe = ctypes.CDLL(str(library.resolve())).memvp_plugin_info
    describe.restype = ctypes.c_char_p
    return {
        "operators": plugin["operators"],
        "embedded": embedded,
        "sha256": _sha256_file(library),
        "build_id": json.loads(describe())["build_id"],
    }


def _parse(trt: Any, network: Any, log: Any, path: Path) -> None:
    if not path.is_file():
        raise EngineError(f"{path} does not exist.", "input")
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(path)):
        return
    faults = []
    for fault in (parser.get_error(index) for index in range(parser.num_errors)):
        faults.append(_faulty_node(fault) + fault.desc().strip())
    said = "; ".join(dict.fromkeys(faults)) or "it is damaged or cut short."
    raise EngineError(f"{trt.__name__} {trt.__version__} cannot take {path}: {said}", "input")


def _faulty_node(fault: Any) -> str:
    if not hasattr(fault, "node_operator"):
        # TensorRT 8 knows its number.
        return f"node {fault.node()} in the graph's order: " if fault.node() >= 0 else ""
    return f"node {fault.node_name()} ({fault.node_operator()}): " if fault.node_operator() else ""


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _require_updates(network: Any, recipe: dict[str, Any], kind: Any) -> None:
    """Each past must have become a buffer that is written in place; anything else would copy it."""
    asked = 2 * recipe["cache"]["layers"] if kind else 0
    count = sum(kind is not None and layer.type == kind for layer in _layers(network))
    if count != asked:
        message = f"{recipe['component']} was to write {asked} caches in place; TensorRT made {count} of its graph."
        raise EngineError(message, "verdict")


def _count_plugins(trt: Any, network: Any, recipe: dict[str, Any]) -> int:
    """The plugin layers of the parsed network, which must be as many as the recipe asks for: TensorRT takes a
    function's body instead of a plugin, or the other way, without a word."""
    kinds = [getattr(trt.LayerType, name, None) for name in ("PLUGIN", "PLUGIN_V2", "PLUGIN_V3")]
    count = sum(layer.type in kinds for layer in _layers(network))
    asked = recipe["memory_sites"] if recipe["lowering"] == "plugin" else 0
    if count != asked:
        message = (
            f"{recipe['component']} was to be built with {recipe['lowering']} lowering and {asked} plugin layers; "
            f"TensorRT made {count} of its graph."
        )
        raise EngineError(message, "verdict")
    return count


def _matrix_nodes(trt: Any, network: Any) -> set[str]:
    """Names of the ONNX nodes that became matrix products and convolutions."""
    names = ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION", "EINSUM")
    kinds = [getattr(trt.LayerType, name) for name in names if hasattr(trt.LayerType, name)]
    found: set[str] = set()
    for layer in _layers(network):
        if layer.type in kinds:
            found.update(layer_names(getattr(layer, "metadata", "")) or [layer.name])
    return found


def _count_once(layers: Iterable[dict[str, Any]]) -> int:
    """How many layers there are beside repetitions: an engine lists a layer for each of its profiles."""
    return len({(layer["onnx"] or [of_profile(layer["name"])[0]])[0] for layer in layers})


def _is_plugin(kind: str) -> bool:
    # "custom_layer" in TensorRT-RTX, "PluginV3" and the like elsewhere.
    return "plugin" in kind.lower() or kind == "custom_layer"


def _configure(
    trt: Any, builder: Any, network: Any, recipe: dict[str, Any], folder: Path, library: Path | None, tell: Any
) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default: factors of float32 products would be rounded to TF32's ten bits, far coarser than fp32's limit.
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    for entry in recipe["profiles"]:
        profile = builder.create_optimization_profile()
        if set(entry["shapes"]) != inputs:
            different = ", ".join(sorted(set(entry["shapes"]) ^ inputs))
            message = f"profile {entry['name']} and the graph do not have the same inputs: {different}"
            raise EngineError(message, "input")
        for name, shapes in entry["shapes"].items():
            profile.set_shape(name, shapes["min"], shapes["opt"], shapes["max"])
        if config.add_optimization_profile(profile) < 0:
            message = f"TensorRT refuses the shapes of profile {entry['name']}: give other --min-shapes, --max-shapes."
            raise EngineError(with_reason(message, logger(trt).errors), "input")
    if recipe.get("pinned"):
        configure_weakly_typed(trt, config, recipe["precision"] == "fp16")
    if recipe["workspace"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe["workspace"])
    if recipe["builder_effort"] is not None:
        config.builder_optimization_level = recipe["builder_effort"]
    if recipe["timing_cache"]:
        load_timing_cache(trt, config, folder / recipe["timing_cache"])
    if library and recipe["plugin"] and recipe["plugin"].get("embed"):
        config.plugins_to_serialize = [str(library.resolve())]
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = progress_monitor(trt, tell)
    return config


def _read_back(trt: Any, path: Path, log: Any, recipe: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The GPU, None without one, and what the written engine holds, with where that was read."""
    names = [profile["name"] for profile in recipe["profiles"]]
    device, listing = None, log.layers
    if Cuda.available() is None:
        device = Cuda().device()
        try:
            embedded = bool(recipe["plugin"] and recipe["plugin"].get("embed"))
            engine = load_engine(trt, path, host_code=embedded)
            return device, dict(read_engine(trt, engine, names), read_from="inspector")
        except EngineError:
            # TensorRT-RTX builds on machines whose GPU it does not run on.
            if flavor(trt) != "tensorrt-rtx":
                raise
    contents = dict(ports_of_log(listing, names), layers=layers_of_log(listing), read_from="log")
    return device, contents


def _write_whole(path: Path, data: memoryview) -> tuple[int, str]:
    """Write a file under a temporary name and rename it; returns its size and SHA-256."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise EngineError(f"{path} cannot be written: {error.strerror}", "environment") from error
    finally:
        if partial.exists():
            partial.unlink()
    return len(data), hashlib.sha256(data).hexdigest()


def _sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(8 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _peak_mib() -> float | None:
    try:
        import resource
    except ImportError:
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def machine() -> dict[str, Any]:
    """This machine: Python, the TensorRT modules and their versions or faults, the GPU or why there is none."""
    modules = {}
    for name in dict.fromkeys(held[0] for held in MODULES.values()):
        try:
            modules[name] = import_tensorrt(name).__version__
        except EngineError as error:
            modules[name] = str(error)
    reason = Cuda.available()
    return {"python": platform.python_version(), **modules, "gpu": reason or Cuda().device()}


def _info(engine: str | None, module: str, plugin: str | None) -> dict[str, Any]:
    if engine is None:
        return machine()
    cuda = Cuda()
    trt = import_tensorrt(module)
    if plugin:
        load_plugin(trt, plugin)
    contents = read_engine(trt, load_engine(trt, engine), [])
    for layer in contents["layers"]:
        layer["plugin"] = _is_plugin(layer["type"])
    return {"tensorrt": trt.__version__, "flavor": flavor(trt), "gpu": cuda.device(), **contents}


def _tell(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build, run or read a TensorRT engine.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words in (("build", "build the engine of a recipe"), ("ready", "whether that can be built here")):
        command = commands.add_parser(name, help=words)
        command.add_argument("recipe")
        command.add_argument("--plugin", help="a plugin library in place of the recipe's")
    for name, words in (("run", "run an engine on arrays"), ("info", "this machine, or what is in an engine")):
        command = commands.add_parser(name, help=words)
        command.add_argument("engine", nargs="?" if name == "info" else None)
        command.add_argument("--module", choices=sorted({held[0] for held in MODULES.values()}), default="tensorrt")
        command.add_argument("--plugin", help="a plugin library that the engine needs")
        if name == "run":
            command.add_argument("--inputs", required=True, help="folder of <tensor>.npy")
            command.add_argument("--outputs", required=True, help="folder for <tensor>.npy")
            command.add_argument("--iterations", type=int, default=1, help="times are a median from 2 on")
            command.add_argument("--cuda-graphs", action="store_true", help="launch all but the first as a CUDA graph")
    return parser.parse_args()


def _build(recipe: str, plugin: str | None) -> dict[str, Any]:
    """Build a recipe's engine, telling how it goes; the record's path."""
    build(recipe, plugin, _tell)
    return {"record": str(Path(recipe).resolve().parent / read_recipe(recipe)[0]["record"])}


def _of_recipe(work: Any, recipe: str, plugin: str | None) -> dict[str, Any]:
    try:
        return dict(work(recipe, plugin))
    except KeyError as error:
        # What a recipe holds is read where it is needed.
        raise EngineError(f"{recipe} is damaged: {error} is missing. Lower the bundle again.", "input") from error


def main() -> int:
    """Do what the command line says; returns the exit code."""
    asked = _arguments()
    try:
        if asked.command in ("build", "ready"):
            _tell(**_of_recipe(_build if asked.command == "build" else ready, asked.recipe, asked.plugin))
        elif asked.command == "run":
            words = asked.engine, asked.inputs, asked.outputs, asked.module, asked.plugin
            _tell(**run(*words, max(1, asked.iterations), asked.cuda_graphs))
        else:
            _tell(**_info(asked.engine, asked.module, asked.plugin))
    except EngineError as error:
        _tell(error=str(error), kind=error.kind)
        return EXIT_CODES[error.kind]
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _tell(error=f"{place}{error.strerror or error}", kind="environment")
        return EXIT_CODES["environment"]
    except MemoryError:
        _tell(error="this machine has too little memory for that.", kind="environment")
        return EXIT_CODES["environment"]
    return 0


if __name__ == "__main__":
    sys.exit(main())
