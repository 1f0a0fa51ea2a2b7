"""Bundles with engines that only a FakeRuntime can load: their files name the lowered graph that is to be run."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from memvp_export.exporter.bundle import Bundle, change
from memvp_export.exporter.engines.profiles import make_profiles
from memvp_export.exporter.engines.source_graph import graph_digests
from memvp_export.exporter.graphs.lowering.lower import lower

from .fake_tensorrt import VERSION


def entry_of(
    component: str,
    precision: str,
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    profiles: Sequence[Mapping[str, Any]],
    cache: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An engine's entry in the manifest."""
    return {
        "component": component,
        "file": f"engines/tensorrt-{VERSION}-sm90/{component}.{precision}.engine",
        "layers": f"engines/tensorrt-{VERSION}-sm90/{component}.{precision}.json",
        "precision": precision,
        "lowering": "native",
        "target": "tensorrt",
        "tensorrt": VERSION,
        "flavor": "tensorrt",
        "gpu": {"name": "NVIDIA H200", "sm": "90", "driver": "13.0"},
        "plugin": None,
        "inputs": inputs,
        "outputs": outputs,
        "ranges": {},
        "cache": cache,
        "profiles": profiles,
    }


def enter(root: Path, entries: Sequence[dict[str, Any]], texts: dict[str, str]) -> None:
    """Write engine files with these texts, by component, and enter them into the bundle's manifest, as built from the
    graphs that it has."""
    bundle = Bundle.open(root)
    entries = [{"source": graph_digests(bundle, one["component"], one["precision"]), **one} for one in entries]
    with change(root) as (writer, manifest):
        for entry in entries:
            writer.path(entry["file"]).write_text(texts[entry["component"]])
            writer.record(entry["file"])
        writer.write_manifest({**manifest, "engines": [*manifest["engines"], *entries]})


def with_engines(
    source: Path, folder: Path, precision: str, max_batch: int = 4, max_seq: int = 96, **lowering: Any
) -> Path:
    """A copy of a bundle below `folder` with an engine of each component, lowered without the plugin."""
    root = Path(shutil.copytree(source, folder / "bundle"))
    bundle = Bundle.open(root)
    entries, graphs = [], {}
    for name in bundle.manifest["components"]:
        (folder / name).mkdir()
        # Portable: ONNX Runtime follows no link out of a graph's folder.
        lowered = lower(bundle, name, precision, folder / name, plugin=False, portable=True, **lowering)
        most = max_seq if "sequence" in lowered.ranges else None
        profiles = make_profiles(lowered.inputs, lowered.ranges, max_batch=max_batch, max_seq=most)
        shapes = [asdict(profile) for profile in profiles]
        entries.append(entry_of(name, precision, lowered.inputs, lowered.outputs, shapes, lowered.cache))
        graphs[name] = json.dumps({"onnx": str(lowered.path)})
    enter(root, entries, graphs)
    return root


def decoder_inputs(past: int = 0, columns: int = 3, rows: int = 1, **changes: Any) -> dict[str, np.ndarray]:
    """What the odd model's decoder takes in a call after `past` columns, random; changes come last."""
    random = np.random.default_rng([past, columns, rows])
    cache = {
        f"past_key_values.{i}.{kind}": random.standard_normal((rows, 6, past, 16)).astype(np.float32)
        for i in range(3)
        for kind in ("key", "value")
    }
    inputs = {
        "input_ids": random.integers(3, 150, (rows, columns)),
        "attention_mask": np.ones((rows, past + columns), np.int64),
        "position_ids": np.tile(np.arange(past, past + columns), (rows, 1)),
        "logits_positions": np.full((rows, 1), columns - 1),
        "visual_memory": random.standard_normal((rows, 256, 96)).astype(np.float32),
    }
    return inputs | cache | changes
