"""Bundles whose engines only the fake TensorRT of `fakes` can load: what it computes is that of closed_form.py."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from memvp_export.exporter.bundle import Bundle, change, new_bundle
from memvp_export.exporter.engines.profiles import make_profiles
from memvp_export.exporter.engines.source_graph import graph_digests
from memvp_export.exporter.images import memvp_preprocessing

from . import closed_form
from .closed_form import port

VERSION, SIDE = "10.13.3.9", 6
_H200 = {"name": "NVIDIA H200", "sm": "90", "driver": "13.0"}


def vision_entry(dtype: str = "float32", max_batch: int = 2) -> dict[str, Any]:
    """The entry of a vision engine whose rows are all what `brightness` says."""
    inputs = [port("pixel_values", "float32", "batch", 3, SIDE, SIDE), port("image_indicator", "float32", "batch")]
    profiles = make_profiles(inputs, {"batch": [1, max_batch]}, max_batch=max_batch)
    return {
        "component": "vision",
        "inputs": inputs,
        "outputs": [port("visual_memory", dtype, "batch", 2, 2)],
        "cache": None,
        "profiles": [{"name": each.name, "shapes": each.shapes} for each in profiles],
    }


def brightness(pixels: np.ndarray) -> int:
    """What vision sees in an image [3,H,W]."""
    return int((pixels > 0).sum() % 13)


def whole_entry(entry: Mapping[str, Any], precision: str = "fp32", number: int = 0) -> dict[str, Any]:
    """With all that a manifest says of an engine."""
    name = f"engines/tensorrt-{VERSION}-sm90/{entry['component']}.{precision}.{number}"
    return {
        "file": f"{name}.engine",
        "layers": f"{name}.json",
        "precision": precision,
        "lowering": "native",
        "target": "tensorrt",
        "tensorrt": VERSION,
        "flavor": "tensorrt",
        "gpu": _H200,
        "plugin": None,
        "ranges": {},
        "activation": 1000,
        **entry,
    }


def half(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with caches and visual memory in half precision, as graphs in fp16 have them."""

    def halved(ports: list[dict[str, Any]]) -> list[dict[str, Any]]:
        graph = [each["name"].startswith(("past", "present", "visual")) for each in ports]
        return [{**each, "dtype": "float16"} if ours else each for each, ours in zip(ports, graph, strict=True)]

    return {**entry, "inputs": halved(entry["inputs"]), "outputs": halved(entry["outputs"])}


def make(
    root: Path,
    decoder: dict[str, Any],
    vision: dict[str, Any] | None = None,
    precision: str = "fp32",
    encoder: dict[str, Any] | None = None,
    **changed: Any,
) -> Path:
    """A bundle of memvp-llama with an engine of both components, or with an encoder one of memvp-t5; changed is of its
    manifest."""
    entries = [vision or vision_entry(), *([encoder] if encoder else []), decoder]
    components = {
        entry["component"]: {
            **{key: entry[key] for key in ("inputs", "outputs")},
            "ranges": {},
            "cache": None,
            "graphs": {precision: {"file": f"graphs/{entry['component']}.onnx", "opset": 20}},
        }
        for entry in entries
    }
    with new_bundle(root) as writer:
        for name in ("tokenizer.model", *(f"graphs/{component}.onnx" for component in components)):
            writer.path(name).write_text(name)
            writer.record(name)
        writer.write_manifest(
            {
                "family": "memvp-t5" if encoder else "memvp-llama",
                "task": "vqa",
                "precision": precision,
                "options": {},
                "config": {},
                "preprocessing": memvp_preprocessing(SIDE),
                "tokenizer": {
                    "type": "sentencepiece",
                    "file": "tokenizer.model",
                    "bos": None,
                    "eos": 2,
                    "pad": 0,
                    "prefix": "",
                    "maximum": 32,
                    "pieces": closed_form.PIECES,
                },
                "generation": {"max_new_tokens": 9, "max_sequence": 32},
                "labels": None,
                "memory": {},
                "components": components,
                "engines": [],
                "samples": None,
                "sources": [],
                **changed,
            }
        )
    enter(root, *(whole_entry(entry, precision) for entry in entries))
    return root


def enter(root: Path, *entries: dict[str, Any], files: Mapping[str, bytes] | None = None) -> None:
    """Write engines and enter them; `files` are other bytes for some of them."""
    bundle = Bundle.open(root)
    made = [{"source": graph_digests(bundle, each["component"], each["precision"]), **each} for each in entries]
    with change(root) as (writer, manifest):
        for entry in made:
            writer.path(entry["file"]).write_bytes((files or {}).get(entry["file"], json.dumps(entry).encode()))
            writer.record(entry["file"])
        writer.write_manifest({**manifest, "engines": [*manifest["engines"], *made]})
