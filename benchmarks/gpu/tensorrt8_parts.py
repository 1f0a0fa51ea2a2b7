"""Engines for TensorRT 8, which another Python has: lowered and adopted here, built and run there.

Where a GPU is refused by the TensorRT that this Python can have, they are what shows a complete builder at work on it.
Each profile is run once, at its opt shapes, on random inputs, and compared with ONNX Runtime; the milliseconds are of
that one run, without warm-up.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from engine_parts import LARGE, SHAPES, copied, engines_of
from parts import LACKS, Part, Place

_TARGET = ("--fp16", "--target", "tensorrt-8", "--plugin", "off")


def tensorrt8(name: str, place: Place) -> dict[str, Any]:
    """The way of a bundle's engines to that machine and back."""
    if place.python8 is None:
        return {"lacks": "no Python with TensorRT 8 was named: --tensorrt-8 PROGRAM"}
    made = place.work / f"{name}.bundle"
    if not made.is_dir():
        return {"lacks": f"the part {name}-bundle did not get through"}
    carried = place.work / f"{name}-tensorrt-8"
    shutil.rmtree(carried, ignore_errors=True)
    with copied(made, place.work / f"{name}-tensorrt-8.bundle") as root:
        try:
            return _taken(root, carried, place)
        finally:
            shutil.rmtree(carried, ignore_errors=True)


def _taken(root: Path, carried: Path, place: Place) -> dict[str, Any]:
    lowered = place.tool("trt", root, *_TARGET, "--lower-only", carried)
    if lowered["code"]:
        return {"build": lowered}
    environment = {**os.environ, "PYTHON": str(place.python8)}
    done = subprocess.run(["sh", carried / "build.sh"], env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    if done.returncode:
        said = (done.stdout or done.stderr).strip().splitlines()[-1:]
        lacks = {"lacks": " ".join(said)} if done.returncode == LACKS else {}
        return {**lacks, "build": {"code": done.returncode, "said": " ".join(said)}}
    built = place.tool("trt", root, "--adopt", carried)
    if built["code"]:
        return {"build": built}
    runs = {}
    for path in sorted(carried.glob("*.recipe.json")):
        recipe = json.loads(path.read_text())
        for profile in recipe["profiles"][-1:] if place.dry_run else recipe["profiles"]:
            runs[f"{recipe['component']} {profile['name']}"] = _run(root, carried, recipe, profile, place)
    return {"precision": "fp16", "build": built, "engines": engines_of(root, place), "runs": runs}


def _run(
    root: Path, carried: Path, recipe: Mapping[str, Any], profile: Mapping[str, Any], place: Place
) -> dict[str, Any]:
    """One run of an engine, and its largest relative difference from ONNX Runtime's outputs."""
    folder = carried / "arrays"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "in").mkdir(parents=True)
    inputs = _inputs(recipe, profile)
    for name, array in inputs.items():
        np.save(folder / "in" / f"{name}.npy", array)
    np.savez(folder / "in.npz", **inputs)
    engine = [str(place.python8), "-m", "memvp_engine.build_engine", "run", carried / recipe["engine"]]
    words = [*engine, "--inputs", folder / "in", "--outputs", folder / "out"]
    done = subprocess.run(words, cwd=carried, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    if done.returncode:
        return {"failed": done.stdout.strip().splitlines()[-1:]}
    said = json.loads(done.stdout.splitlines()[-1])
    files = ["--component", recipe["component"], "--inputs", folder / "in.npz", "--save-outputs", folder / "out.npz"]
    place.tool("run", root, *files, "--precision", recipe["precision"])
    with np.load(folder / "out.npz") as known:
        differences = {
            port["name"]: _difference(known[port["name"]], np.load(folder / "out" / f"{port['name']}.npy"))
            for port in recipe["outputs"]
        }
    return {"milliseconds": said["milliseconds"], "difference": max(differences.values()), "outputs": differences}


def _inputs(recipe: Mapping[str, Any], profile: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Random inputs of the profile's opt shapes; integers as ONNX has them."""
    rng, found = np.random.default_rng(0), {}
    shapes = {name: shape["opt"] for name, shape in profile["shapes"].items()}
    for port in recipe["inputs"]:
        name, shape = port["name"], shapes[port["name"]]
        if port["dtype"] != "int32":
            found[name] = rng.standard_normal(shape).astype(port["dtype"])
        elif "mask" in name:
            found[name] = np.ones(shape, np.int64)
        elif name == "position_ids":
            past = shapes["attention_mask"][1] - shape[1]
            found[name] = np.tile(np.arange(past, past + shape[1]), (shape[0], 1))
        else:
            # Token ids that every vocabulary has, and the first column.
            found[name] = rng.integers(0, 100, shape) if name == "input_ids" else np.zeros(shape, np.int64)
    return found


def _difference(known: np.ndarray, found: np.ndarray) -> float:
    """Relative, in the L2 norm. An engine's cache is the new columns alone, the tail of the graph's."""
    tail = known[tuple(slice(-size, None) if size else slice(0, 0) for size in found.shape)].astype(np.float64)
    return float(np.linalg.norm(found - tail) / max(np.linalg.norm(tail), 1e-12))


PARTS = [Part(f"{name}-tensorrt-8", 300, partial(tensorrt8, name)) for name in (SHAPES, LARGE)]
