"""Engines of the shipped model and of a LLaMA-7B-shaped one: built, read back, compared with PyTorch, and measured.

One part compiles the plugin, one exports each bundle, and one more takes each variant of it the whole way, in a copy of
the bundle that shares its files. Decoding in a CUDA graph is left out: the session of engines does not offer it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from parts import Part, Place

SHAPES, LARGE = "shapes", "llama-7b"
# (precision, --plugin, --cache)
VARIANTS = {
    SHAPES: [
        *((precision, plugin, "delta") for precision in ("fp32", "fp16", "bf16") for plugin in ("off", "on")),
        ("fp16", "off", "concat"),
    ],
    LARGE: [("fp16", "off", "delta"), ("fp16", "on", "delta"), ("bf16", "off", "delta"), ("fp16", "off", "concat")],
}
_SUMMARY = ("by_profile", "memory_sites", "cache_copies", "seconds", "read_from", "activation")
# Enough to see a graph go through; what is traced takes most of a dry run's time.
_DRY_SIZES = {"layers": 1, "tower_blocks": 3}


def plugin_library(place: Place) -> dict[str, Any]:
    """Compile the plugin for this GPU; variants without it do not need it."""
    import torch

    if place.dry_run or not torch.cuda.is_available():
        return place.tool("plugin", "build", "-o", _library(place), "--dry-run")
    major, minor = torch.cuda.get_device_capability()
    return _through(place.tool("plugin", "build", "-o", _library(place), "--arch", f"{major}{minor}", "--json"))


def _library(place: Place) -> Path:
    return place.work / "libmemvp_plugins.so"


def bundle(name: str, place: Place) -> dict[str, Any]:
    """Export a bundle into the working folder; in a dry run the large one is the random one of odd sizes."""
    source, target = place.root / "examples/shapes/model", place.work / f"{name}.bundle"
    if name == LARGE:
        source = place.work / f"{name}.source"
        _write_source(source, place)
    golden = ["--no-golden"] if place.dry_run else []
    done = place.tool("onnx", source, "-o", target, "--precision", "fp16", "--overwrite", "--json", *golden)
    if name == LARGE:
        shutil.rmtree(source)
    return _through(done)


def _write_source(folder: Path, place: Place) -> None:
    from memvp_export.examples.random_source import PRESETS, write_source

    # Few blocks of the tower are enough: it is the decoder that is measured.
    large = replace(PRESETS["7b"], layers=place.layers, tower_blocks=3)
    write_source(folder, replace(PRESETS["odd"], **_DRY_SIZES) if place.dry_run else large)


def variant(name: str, precision: str, plugin: str, cache: str, place: Place) -> dict[str, Any]:
    """Build the engines of a variant, list their layers, compare them with PyTorch and measure them beside it."""
    made = place.work / f"{name}.bundle"
    if not made.is_dir():
        return {"lacks": f"the part {name}-bundle did not get through"}
    if _library(place).is_file():
        os.environ["MEMVP_PLUGIN"] = str(_library(place))
    with copied(made, place.work / f"{name}-{precision}-{plugin}-{cache}.bundle") as root:
        found = _taken(root, precision, plugin, cache, place)
    return {"precision": precision, "plugin": plugin, "cache": cache} | found


@contextmanager
def copied(bundle: Path, root: Path) -> Iterator[Path]:
    """A copy of a bundle for as long as it is worked on."""
    shutil.rmtree(root, ignore_errors=True)
    # Nothing changes a file of a bundle in place.
    shutil.copytree(bundle, root, copy_function=lambda source, target: Path(target).hardlink_to(source))
    try:
        yield root
    finally:
        shutil.rmtree(root)


def engines_of(root: Path, place: Place) -> dict[str, Any]:
    """What `inspect` says of the engines in a bundle, by component."""
    engines = place.tool("inspect", root, "--json")["json"]["engines"]
    return {one["component"]: {key: one.get(key) for key in _SUMMARY} for one in engines}


def _taken(root: Path, precision: str, plugin: str, cache: str, place: Place) -> dict[str, Any]:
    built = place.tool("trt", root, f"--{precision}", "--plugin", plugin, "--cache", cache, "--json")
    if built["code"]:
        return {"lacks": built["lacks"], "build": built} if "lacks" in built else {"build": built}
    # Only the command's figures: the entries are in the report of `inspect`.
    del built["json"]
    engines = engines_of(root, place)
    asked = ["--backend", "tensorrt", "--precision", precision]
    check = place.tool("check", root, *asked, "--json")
    # What cannot be run for want of a GPU cannot be measured either.
    measure = ["bench", root, "--backend", "torch", *asked, "--duration", "0.5", "--json"]
    bench = check if "lacks" in check else place.tool(*measure)
    return {"build": built, "engines": engines, "check": check, "bench": bench}


def _through(done: dict[str, Any]) -> dict[str, Any]:
    """What a command said, unless it failed for a reason other than what this machine lacks."""
    if done["code"] and "lacks" not in done:
        raise SystemExit(done["said"])
    return done


def _parts() -> list[Part]:
    found = [Part("plugin-library", 240, plugin_library)]
    for name, variants in VARIANTS.items():
        found.append(Part(f"{name}-bundle", 300, partial(bundle, name)))
        for precision, plugin, cache in variants:
            title = f"{name}-{precision}-{'plugin' if plugin == 'on' else 'native'}-{cache}"
            found.append(Part(title, 150 if name == SHAPES else 300, partial(variant, name, precision, plugin, cache)))
    return found


PARTS = _parts()
