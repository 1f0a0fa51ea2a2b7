"""A probing graph as a TensorRT engine: built for the shapes of one call, run once and thrown away.

It is built from the published graph, whose values have the names that are compared, with its operators' bodies written
out. The engine of the bundle is built from the lowered graph, and fuses where a probe must hand out what lies between.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner

from ..bundle import Bundle, sha256_file
from ..dims import terms
from ..engines.build_engine import SCHEMA
from ..engines.child import build_in_child
from ..engines.session import TensorRTSession
from ..inspection.values import dims_of, dtype_name
from ..session import Arrays
from .bisect_probe import probe

_PROFILE = "call"


@dataclass(frozen=True)
class EngineProbe:
    """Runs probing graphs on the target that the entry of an engine in the manifest has been built for."""

    entry: Mapping[str, Any]

    def run(self, model: onnx.ModelProto, path: Path, outputs: Sequence[str], inputs: Arrays, precision: str) -> Arrays:
        """The values `outputs` of a published graph; its weights lie beside `path`, where the probing graph is written.

        Raises what building and loading an engine do."""
        if not outputs:
            return {}
        graph = probe_graph(model, outputs)
        path.write_bytes(graph.SerializeToString())
        recipe = _recipe(graph, path, inputs, self.entry["target"], precision)
        (path.parent / "recipe.json").write_text(json.dumps(recipe))
        record = json.loads(build_in_child(path.parent / "recipe.json", 0, lambda done: None).read_bytes())
        with TensorRTSession(_as_bundle(path.parent, recipe, record), precision) as session:
            names = [port["name"] for port in recipe["inputs"]]
            return session.run(model.graph.name, {name: inputs[name] for name in names}, list(outputs))


def probe_graph(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """A copy that computes `outputs` and nothing else, without functions and without inputs that are not read."""
    typed = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    copy = probe(model, outputs)
    del copy.graph.output[:]
    # TensorRT's parser, unlike ONNX Runtime, does not infer the types of outputs.
    copy.graph.output.extend(typed[name] for name in outputs)
    read = {name for node in copy.graph.node for name in node.input}
    kept = [value for value in copy.graph.input if value.name in read]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    return onnx.inliner.inline_local_functions(copy)


def _recipe(graph: onnx.ModelProto, path: Path, inputs: Arrays, target: str, precision: str) -> dict[str, Any]:
    ports = {kind: [_port(value) for value in values] for kind, values in _values(graph).items()}
    lengths = {
        dim: length
        for port in ports["inputs"]
        for dim, length in zip(port["dims"], inputs[port["name"]].shape, strict=True)
        if len(terms(dim)) == 1
    }
    # No profile ends at a length of 0.
    longer = {dim: max(length, 1) - length for dim, length in lengths.items()}
    shapes = {}
    for port in ports["inputs"]:
        given = list(inputs[port["name"]].shape)
        longest = [
            length + sum(longer.get(term, 0) for term in terms(dim))
            for dim, length in zip(port["dims"], given, strict=True)
        ]
        shapes[port["name"]] = {"min": given, "opt": given, "max": longest}
    return {
        "schema": SCHEMA,
        "component": graph.graph.name,
        "onnx": path.name,
        "engine": "probe.engine",
        "record": "probe.json",
        "target": target,
        "precision": precision,
        "lowering": "native",
        "memory_sites": 0,
        **ports,
        "ranges": {},
        "cache": None,
        "profiles": [{"name": _PROFILE, "shapes": shapes}],
        "workspace": None,
        "builder_effort": None,
        "timing_cache": None,
        "plugin": None,
    }


def _values(graph: onnx.ModelProto) -> dict[str, Sequence[onnx.ValueInfoProto]]:
    return {"inputs": graph.graph.input, "outputs": graph.graph.output}


def _port(value: onnx.ValueInfoProto) -> dict[str, Any]:
    return {"name": value.name, "dtype": dtype_name(value.type.tensor_type.elem_type), "dims": dims_of(value)}


def _as_bundle(folder: Path, recipe: Mapping[str, Any], record: Mapping[str, Any]) -> Bundle:
    """The probing engine as the only one of a bundle, which is what a session runs."""
    name, engine = recipe["component"], folder / recipe["engine"]
    keys = ("component", "precision", "lowering", "target", "inputs", "outputs", "cache", "profiles")
    parts = {key: recipe[key] for key in keys}
    built = {key: record[key] for key in ("tensorrt", "flavor", "gpu")}
    file = {"size": engine.stat().st_size, "sha256": sha256_file(engine)}
    manifest = {
        "precision": recipe["precision"],
        "components": {name: {"graphs": {recipe["precision"]: {"file": recipe["onnx"]}}}},
        "engines": [{**parts, **built, "source": {}, "file": engine.name, "plugin": None}],
        "files": {engine.name: file},
    }
    return Bundle(folder, manifest)
