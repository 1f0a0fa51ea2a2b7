"""Engines of the shipped models and of a LLaMA-7B-shaped one: built, read back, compared with PyTorch, and measured.

One part compiles the plugin, one exports each bundle that several use, and one more takes each variant of it the whole
way, in a copy of the bundle that shares its files: a quantized one is calibrated there first. Engines in fp32 are of a
bundle in fp32, whose weights are the source's.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import kernel_counts
from parts import Part, Place, no_tensorrt

SHAPES, VILT, LARGE = "shapes", "shapes-vilt", "llama-7b"
# (precision, --plugin, --cache)
VARIANTS = {
    SHAPES: [
        *((precision, plugin, "delta") for precision in ("fp16", "bf16", "fp32") for plugin in ("off", "on")),
        ("fp16", "off", "concat"),
        ("fp16", "off", "in_place"),
        ("fp16", "on", "in_place"),
    ],
    # It has neither a plugin's operator nor a cache.
    VILT: [(precision, "off", "delta") for precision in ("fp16", "bf16", "fp32")],
    LARGE: [
        *(("fp16", "off", "delta"), ("fp16", "on", "delta"), ("fp16", "off", "in_place"), ("fp16", "off", "concat")),
        *(("bf16", "off", "delta"), ("bf16", "on", "delta"), ("fp32", "off", "delta")),
    ],
}
QUANTIZED = ("int8", "fp8", "int8-weights", "int4-weights")
_SOURCES = {SHAPES: "examples/shapes/model", VILT: "examples/shapes_vilt/model"}
_QUESTIONS = "examples/shapes/questions.jsonl"
# Of random weights the engines' speed alone means something.
_MADE_UP = ("--synthetic", "--samples", "8", "--method", "max", "--no-smooth-quant")
_SECONDS = {SHAPES: 150, VILT: 150, LARGE: 300}
_LONGEST = 480
_SUMMARY = ("by_profile", "memory_sites", "cache_copies", "seconds", "read_from", "activation")
# Enough to see a graph go through; what is traced takes most of a dry run's time.
_DRY_SIZES = {"layers": 1, "tower_blocks": 3}


def plugin_library(place: Place) -> dict[str, Any]:
    """Compile the plugin for this GPU; variants without it do not need it."""
    import torch

    if place.dry_run:
        return place.tool("plugin", "build", "-o", library(place), "--dry-run")
    if not torch.cuda.is_available():
        return {"lacks": "torch sees no CUDA GPU"}
    major, minor = torch.cuda.get_device_capability()
    return through(place.tool("plugin", "build", "-o", library(place), "--arch", f"{major}{minor}", "--json"))


def library(place: Place) -> Path:
    """Where the plugin is."""
    return place.work / "libmemvp_plugins.so"


def no_library(place: Place) -> dict[str, str]:
    """Let the tool find the plugin, compiled now where its part has not done so on this machine; what that lacks."""
    made = {} if library(place).is_file() else plugin_library(place)
    if "lacks" in made:
        return {"lacks": made["lacks"]}
    os.environ["MEMVP_PLUGIN"] = str(library(place))
    return {}


def bundle(name: str, place: Place, precision: str = "fp16") -> dict[str, Any]:
    """Export a bundle into the working folder, where something can build its engines; in a dry run the large one is the
    random one of odd sizes."""
    if not place.dry_run and place.python8 is None and (lacks := no_tensorrt()):
        return lacks
    target = _bundle_at(name, place, precision)
    source = place.work / f"{name}.source" if name == LARGE else place.root / _SOURCES[name]
    if name == LARGE:
        _write_source(source, place)
    golden = ["--no-golden"] if place.dry_run else []
    done = place.tool("onnx", source, "-o", target, "--precision", precision, "--overwrite", "--json", *golden)
    if name == LARGE:
        shutil.rmtree(source)
    return through(done) | {"layers": place.layers}


def _bundle_at(name: str, place: Place, precision: str) -> Path:
    return place.work / f"{name}{'-fp32' if precision == 'fp32' else ''}.bundle"


def _write_source(folder: Path, place: Place) -> None:
    from memvp_export.examples.random_source import PRESETS, write_source

    # Few blocks of the tower are enough: it is the decoder that is measured.
    large = replace(PRESETS["7b"], layers=place.layers, tower_blocks=3)
    write_source(folder, replace(PRESETS["odd"], **_DRY_SIZES) if place.dry_run else large)


def variant(name: str, precision: str, plugin: str, cache: str, place: Place) -> dict[str, Any]:
    """Build the engines of a variant, list their layers, compare them with PyTorch and measure them beside it."""
    if lacks := no_tensorrt():
        return lacks
    if plugin == "on" and not place.dry_run and (lacks := no_library(place)):
        return lacks
    found: dict[str, Any] = {"precision": precision, "plugin": plugin, "cache": cache}
    whole = exported(name, place, "fp32" if precision == "fp32" else "fp16")
    with copied(whole, place.work / f"{name}-{precision}-{plugin}-{cache}.bundle") as root:
        if precision in QUANTIZED:
            # What it has to be faster than.
            plain = through(place.tool("trt", root, "--fp16", "--plugin", plugin))
            if "lacks" in plain:
                return {"lacks": plain["lacks"]}
            found["calibrated"] = _calibrated(root, name, precision, place)
        options = "--plugin", plugin, "--cache", cache
        judged = _judged_by(name, place) if precision in QUANTIZED else ()
        new_tokens = 0 if name == VILT else 16
        taken = taken_whole_way(root, options, precision, place, new_tokens, judged=judged)
    return found | taken


def exported(name: str, place: Place, precision: str = "fp16") -> Path:
    """The bundle, exported now where its part has not made it on this machine."""
    made = _bundle_at(name, place, precision)
    if not made.is_dir():
        bundle(name, place, precision)
    return made


def _judged_by(name: str, place: Place) -> tuple[object, ...] | None:
    """Options of `check` for quantized engines: answers are judged, and random weights have none to keep."""
    return None if name == LARGE else ("--data", place.root / _QUESTIONS)


def _calibrated(root: Path, name: str, precision: str, place: Place) -> dict[str, Any]:
    words = _MADE_UP if name == LARGE else ("--data", place.root / _QUESTIONS, "--samples", "32")
    done = through(place.tool("calibrate", root, "--precision", precision, *words, "--no-sensitivity", "--json"))
    # The report has a row for every layer.
    return {key: value for key, value in done.items() if key != "json"}


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


def engines_of(root: Path, precision: str, place: Place) -> dict[str, Any]:
    """What `inspect` says of the engines of a precision, by component, with the kernels of a decoder's layer; the
    lists of their layers go to `layers`."""
    (place.results / "layers").mkdir(exist_ok=True)
    found = {}
    for engine in place.tool("inspect", root, "--json")["json"]["engines"]:
        if engine["precision"] == precision:
            record = json.loads(Path(engine["record"]).read_text())
            listed = place.results / "layers" / f"{root.stem}-{engine['component']}.json"
            listed.write_text(json.dumps(record["layers"], indent=1) + "\n")
            kernels = {"kernels": kernel_counts.counts(record)}
            found[engine["component"]] = {key: engine.get(key) for key in _SUMMARY} | kernels
    return found


def taken_whole_way(
    root: Path,
    options: tuple[str, ...],
    precision: str,
    place: Place,
    new_tokens: int,
    judged: tuple[object, ...] | None = (),
) -> dict[str, Any]:
    """Engines of a bundle in a precision built, read back, compared with the golden samples, and measured beside
    PyTorch; of a model that writes answers these too, of so many tokens (0 of others), and decode steps as CUDA graphs.
    As far as it went. judged are options of `check`; None leaves it out."""
    built = place.tool("trt", root, f"--{precision}", *options, "--json")
    if built["code"]:
        return {"build": built} | lack_of({"build": built}, "build")
    # Only the command's figures: the entries are in the report of `inspect`.
    del built["json"]
    engines = engines_of(root, precision, place)
    asked = ["--backend", "tensorrt", "--precision", precision]
    # A dry run's bundle has no questions.
    answers = ["--new-tokens", new_tokens] if new_tokens and not place.dry_run else []
    measure = ["bench", root, "--backend", "torch", *asked, "--duration", "0.5", "--json"]
    found = {"build": built, "engines": engines}
    if judged is not None:
        found["check"] = place.tool("check", root, *asked, *judged, "--json")
    bench = found["bench"] = place.tool(*measure, *answers)
    if new_tokens and "lacks" not in bench:
        found["graphs"] = place.tool(*measure, "--stage", "decode", "--cuda-graphs")
    return found | lack_of(found, "check", "bench", "graphs")


def lack_of(found: Mapping[str, Any], *commands: str) -> dict[str, Any]:
    """The first lack of a part's commands as the part's own, so that it is run again."""
    return next(({"lacks": found[name]["lacks"]} for name in commands if "lacks" in found.get(name, {})), {})


def tests(file: str, place: Place) -> dict[str, Any]:
    """Tests of engines on a GPU: parity in every profile, the same answers, calls as CUDA graphs; without the plugin
    those that need none."""
    if place.dry_run:
        return {"lacks": "this is a dry run"}
    if lacks := no_tensorrt():
        return lacks
    lacks = no_library(place)
    command = [sys.executable, "-m", "pytest", f"tests/gpu/{file}", *(("-k", "not plugin") if lacks else ())]
    # Tests give a process one thread, as many of them run side by side; here it is one process.
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())}
    done = subprocess.run(command, cwd=place.root, env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    if done.returncode:
        raise SystemExit("the tests of engines failed")
    return {"said": done.stdout.splitlines()[-1:], **lacks}


def through(done: dict[str, Any]) -> dict[str, Any]:
    """What a command said, unless it failed for a reason other than what this machine lacks."""
    if done["code"] and "lacks" not in done:
        raise SystemExit(done["said"])
    return done


def _part(name: str, precision: str, plugin: str, cache: str, seconds: int) -> Part:
    title = f"{name}-{precision}-{'plugin' if plugin == 'on' else 'native'}-{cache}"
    return Part(title, seconds, partial(variant, name, precision, plugin, cache))


def _parts() -> list[Part]:
    found = [Part("plugin-library", 240, plugin_library)]
    for name, variants in VARIANTS.items():
        if name != VILT:
            found.append(Part(f"{name}-bundle", 300, partial(bundle, name)))
        for each in variants:
            # With the export of the bundle in fp32.
            seconds = _LONGEST if name == LARGE and each[0] == "fp32" else _SECONDS[name]
            found.append(_part(name, *each, seconds))
    return found


PARTS = _parts()
TESTS = [
    Part("engine-tests", 460, partial(tests, "test_engines.py")),
    Part("encoder-decoder-engine-tests", 300, partial(tests, "test_encoder_decoder_engines.py")),
]
QUANTIZED_PARTS = [
    _part(name, mode, "off", "delta", seconds)
    for name, seconds, modes in ((SHAPES, 300, QUANTIZED), (LARGE, _LONGEST, QUANTIZED), (VILT, 300, ("int8",)))
    for mode in modes
]
