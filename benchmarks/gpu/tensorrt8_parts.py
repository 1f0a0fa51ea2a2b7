"""Engines for TensorRT 8, which another Python has: lowered and adopted here, built and run there.

Where a GPU is refused by the TensorRT that this Python can have, they are what shows a complete builder at work on it.
Each is run on the loads of `bench` for one request, compared with ONNX Runtime, and timed beside PyTorch: the
time between events of the stream around a run, gaps between its launches included, of an engine and of PyTorch eager.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from engine_parts import LARGE, SHAPES, copied, engines_of, exported, lack_of, through
from parts import LACKS, Part, Place

# (bundle, precision, --plugin)
VARIANTS = [
    *((name, "fp16", plugin) for name in (SHAPES, LARGE) for plugin in ("off", "on")),
    (SHAPES, "fp32", "off"),
]
_ITERATIONS = 50


def tensorrt8(name: str, precision: str, plugin: str, place: Place) -> dict[str, Any]:
    """The way of a bundle's engines to that machine and back."""
    if place.python8 is None:
        return {"lacks": "no Python with TensorRT 8 was named: --tensorrt-8 PROGRAM"}
    if plugin == "on" and place.headers8 is None:
        return {"lacks": "no C++ headers of TensorRT 8 were named: --tensorrt-8-headers FOLDER"}
    root = place.work / f"{name}-tensorrt-8-{precision}-{plugin}.bundle"
    with copied(exported(name, place), root), _emptied(root.with_suffix(".carried")) as carried:
        taken = _taken(root, carried, precision, plugin, place)
    return {"precision": precision, "plugin": plugin} | taken


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """A folder that is not there yet, and not afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _library(place: Place) -> Path:
    """The plugin, compiled for TensorRT 8 and this GPU."""
    import torch

    made = place.work / "libmemvp_plugins-8.so"
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    through(place.tool("plugin", "build", "-o", made, "--headers", place.headers8, "--arch", f"{major}{minor}"))
    return made


def _taken(root: Path, carried: Path, precision: str, plugin: str, place: Place) -> dict[str, Any]:
    with_plugin = ["--plugin", _library(place)] if plugin == "on" else []
    asked = ["--target", "tensorrt-8", "--plugin", plugin, "--lower-only", carried]
    lowered = place.tool("trt", root, f"--{precision}", *asked)
    if lowered["code"]:
        return {"build": lowered} | lack_of({"build": lowered}, "build")
    environment = {**os.environ, "PYTHON": str(place.python8)}
    script = ["sh", carried / "build.sh", *with_plugin]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    if done.returncode:
        said = (done.stdout or done.stderr).strip().splitlines()[-1:]
        lacks = {"lacks": " ".join(said)} if done.returncode == LACKS else {}
        return {**lacks, "build": {"code": done.returncode, "said": " ".join(said)}}
    built = place.tool("trt", root, "--adopt", carried)
    if built["code"]:
        return {"build": built}
    engines = {path.name.split(".")[0]: path for path in carried.glob("*.engine")}
    runs = {
        f"{load.component} {load.stage if load.past or load.columns else 'default'}": {"load": vars(load)}
        | _run(root, carried, engines[load.component], load, precision, with_plugin, place)
        for load in _loads(root, place)
    }
    measure = ["bench", root, "--backend", "torch", "--precision", precision, "--batch", "1", "--duration", "0.5"]
    bench = place.tool(*measure, "--json")
    found = {"build": built, "engines": engines_of(root, precision, place), "runs": runs, "bench": bench}
    return found | lack_of(found, "bench")


def _loads(root: Path, place: Place) -> list[Any]:
    """Those of `bench` for one request; in a dry run the last of them."""
    from memvp_export import Bundle
    from memvp_export.exporter.bench.loads import plan_loads
    from memvp_export.exporter.bench.options import Options

    components = Bundle.open(root).manifest["components"]
    ranges = {name: component["ranges"] for name, component in components.items()}
    cached = {name: bool(component["cache"]) for name, component in components.items()}
    loads = plan_loads(cached, ranges, Options(batch=1))
    return loads[-1:] if place.dry_run else loads


def _run(
    root: Path, carried: Path, engine: Path, load: Any, precision: str, with_plugin: list[Any], place: Place
) -> dict[str, Any]:
    """Runs of an engine, and the largest relative difference of its outputs from ONNX Runtime's."""
    folder = carried / "arrays"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "in").mkdir(parents=True)
    inputs = _inputs(root, load, precision)
    for name, array in inputs.items():
        np.save(folder / "in" / f"{name}.npy", array)
    np.savez(folder / "in.npz", **inputs)
    words = [place.python8, "-m", "memvp_engine.build_engine", "run", engine, *with_plugin]
    words += ["--inputs", folder / "in", "--outputs", folder / "out", "--iterations", _ITERATIONS]
    said = _said([*words, "--cuda-graphs"], carried)
    in_graph = {"in_graph": said.get("milliseconds"), "graph_failed": said.get("failed")}
    # Last, so that its outputs are compared.
    said = _said(words, carried)
    if "failed" in said:
        return said
    files = ["--inputs", folder / "in.npz", "--save-outputs", folder / "out.npz"]
    asked = ["--component", load.component, "--precision", precision, "--backend", "onnxruntime"]
    through(place.tool("run", root, *asked, *files))
    with np.load(folder / "out.npz") as known:
        differences = {
            path.stem: _difference(known[path.stem], np.load(path)) for path in sorted((folder / "out").glob("*.npy"))
        }
    ms = {"milliseconds": said["milliseconds"], **in_graph}
    return {**ms, "difference": max(differences.values()), "outputs": differences}


def _said(words: list[Any], folder: Path) -> dict[str, Any]:
    """The result of a build_engine command, or why it failed."""
    done = subprocess.run(list(map(str, words)), cwd=folder, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    lines = done.stdout.strip().splitlines()[-1:]
    if done.returncode:
        return {"failed": " ".join(lines) or f"it ended with {done.returncode}"}
    return dict(json.loads(lines[0]))


def _inputs(root: Path, load: Any, precision: str) -> dict[str, np.ndarray]:
    """Those of `bench`, with random caches."""
    from memvp_export import Bundle
    from memvp_export.exporter.bench.inputs import golden_arrays, inputs_of
    from memvp_export.exporter.dims import length

    bundle = Bundle.open(root)
    component: Mapping[str, Any] = bundle.manifest["components"][load.component]
    found = inputs_of(component, load, load.past, load.columns, precision, golden_arrays(bundle))
    sizes = {"batch": load.batch, "past_sequence": load.past}
    rng, kind = np.random.default_rng(0), np.float16 if precision == "fp16" else np.float32
    for port in component["inputs"]:
        if port["name"] not in found:
            found[port["name"]] = rng.standard_normal([length(dim, sizes) for dim in port["dims"]]).astype(kind)
    return dict(found)


def _difference(known: np.ndarray, found: np.ndarray) -> float:
    """Relative, in the L2 norm. An engine's cache is the new columns alone, the tail of the graph's."""
    tail = known[tuple(slice(-size, None) if size else slice(0, 0) for size in found.shape)].astype(np.float64)
    return float(np.linalg.norm(found - tail) / max(np.linalg.norm(tail), 1e-12))


PARTS = [
    Part(
        f"{name}-tensorrt-8-{precision}-{'plugin' if plugin == 'on' else 'native'}",
        300,
        partial(tensorrt8, name, precision, plugin),
    )
    for name, precision, plugin in VARIANTS
]
