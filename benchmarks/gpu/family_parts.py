"""Engines of the other families, of random models of odd sizes: parity before speed. And what APT saves against deep
prompts, on a ViLT-B/32."""

import importlib
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from engine_parts import no_library, taken_whole_way, through
from parts import Part, Place, no_tensorrt

# (family, its module in memvp_export.examples, --plugin)
FAMILIES = [
    *(("memvp-bart", "random_bart", plugin) for plugin in ("off", "on")),
    *(("memvp-t5", "random_t5", plugin) for plugin in ("off", "on")),
    ("apt-vilt", "random_vilt", "off"),
    ("apt-meter", "random_meter", "off"),
    ("apt-clip", "random_clip", "off"),
    ("apt-stable-diffusion", "random_diffusion", "off"),
]
# What APT is compared with, as deep_prompt.py makes it.
RIVALS: dict[str, tuple[str, ...]] = {"deep": (), "none": ("--none",)}


def family(name: str, module: str, plugin: str, place: Place) -> dict[str, Any]:
    """A random model of a family exported, its fp16 engines taken the whole way."""
    if lacks := no_tensorrt() or (no_library(place) if plugin == "on" and not place.dry_run else {}):
        return lacks
    root = place.work / f"{name}-{plugin}.bundle"
    try:
        exported = _exported(module, "odd", root, place)
        if "lacks" in exported:
            return exported
        # Of odd sizes, some have places for few columns alone.
        options, new_tokens = (("--plugin", plugin), 4) if name.startswith("memvp") else ((), 0)
        taken = taken_whole_way(root, options, "fp16", place, new_tokens)
        return {"precision": "fp16", "plugin": plugin} | taken
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _exported(module: str, preset: str, root: Path, place: Place, golden: bool = True) -> dict[str, Any]:
    example = importlib.import_module(f"memvp_export.examples.{module}")
    source = root.with_suffix(".source")
    shutil.rmtree(source, ignore_errors=True)
    example.write_source(source, example.PRESETS[preset])
    without = [] if golden and not place.dry_run else ["--no-golden"]
    done = place.tool("onnx", source, "-o", root, "--precision", "fp16", "--overwrite", "--json", *without)
    shutil.rmtree(source)
    return through(done)


def deep_prompts(place: Place) -> dict[str, Any]:
    """An APT-ViLT's engine beside those of the same with deep prompts, and with none."""
    if lacks := no_tensorrt():
        return lacks
    program = place.root / "benchmarks/deep_prompt.py"
    roots = {kind: place.work / f"vilt-{kind}.bundle" for kind in ("apt", *RIVALS)}
    try:
        preset = "odd" if place.dry_run else "base"
        exported = _exported("random_vilt", preset, roots["apt"], place, golden=False)
        if "lacks" in exported:
            return exported
        for kind, words in RIVALS.items():
            shutil.rmtree(roots[kind], ignore_errors=True)
            subprocess.run([sys.executable, program, roots["apt"], roots[kind], *words], check=True)
        for root in roots.values():
            built = place.tool("trt", root, "--fp16")
            if "lacks" in built:
                return {"lacks": built["lacks"]}
            through(built)
        # 40 is the length of the paper's questions.
        asked = ("--backend", "tensorrt", "--prompt-tokens", 7 if place.dry_run else 40, "--json")
        measured = {kind: place.tool("bench", roots["apt"], "--compare", roots[kind], *asked) for kind in RIVALS}
        lacking = [done["lacks"] for done in measured.values() if "lacks" in done]
        return {"measured": measured} | ({"lacks": lacking[0]} if lacking else {})
    finally:
        for root in roots.values():
            shutil.rmtree(root, ignore_errors=True)


PARTS = [
    *(
        Part(f"{name}-{'plugin' if plugin == 'on' else 'native'}", 150, partial(family, name, module, plugin))
        for name, module, plugin in FAMILIES
    ),
    Part("apt-vilt-deep-prompts", 300, deep_prompts),
]
