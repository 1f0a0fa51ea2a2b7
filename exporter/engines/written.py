"""Recipes and records as files from outside: read whole and in their form, or refused.

Their keys are those of `recipes.write_recipe` and `build_engine.build`.
"""

import json
from pathlib import Path
from typing import Any

from ..bundle import CACHE, GPU, PLUGIN, PORTS, PROFILES, RANGES
from ..errors import InputError
from ..forms import fault
from ..precisions import DTYPES
from .build_engine import SCHEMA, read_recipe
from .child import tool_error
from .engine_error import EngineError
from .tensorrt_module import MODULES

_NUMBER = (float, int)
_PARTS = [{"name": str, "dtype": str, "dims": [int]}]
_RECIPE: dict[Any, Any] = {
    **dict.fromkeys(("component", "onnx", "engine", "record", "target", "precision", "lowering"), str),
    "source": dict,
    "memory_sites": int,
    "inputs": PORTS,
    "outputs": PORTS,
    "ranges": RANGES,
    "cache": CACHE,
    "profiles": PROFILES,
    "plugin": ({"operators": [str], "embed": bool}, None),
    "quantized": ({"dtype": str, "layers": int, "bytes": int}, None),
    "keep_fp32": ({"patterns": [str], "nodes": [str], "stored": [str]}, None),
}
_PINNED = ({"float32": [str], "float16": [str], "constants": [str]}, None)
_ENGINE = {"file": str, "size": int, "sha256": str}
_RECORD: dict[Any, Any] = {
    **dict.fromkeys(("recipe_sha256", "tensorrt", "module", "flavor", "read_from"), str),
    "gpu": GPU,
    "plugin": PLUGIN,
    "seconds": {"parse": _NUMBER, "build": _NUMBER},
    "inputs": _PARTS,
    "outputs": _PARTS,
    "profiles": PROFILES,
    "plugin_layers": int,
    "network_plugin_layers": int,
    "layers": [
        {
            **dict.fromkeys(("name", "type"), str),
            **dict.fromkeys(("inputs", "constants", "outputs"), _PARTS),
            "onnx": [str],
            "matrix": bool,
            "plugin": bool,
        }
    ],
}


def read_whole_recipe(path: Path) -> tuple[dict[str, Any], str]:
    """A recipe and the SHA-256 of its bytes; InputError where anything in it is missing or of the wrong kind."""
    try:
        recipe, digest = read_recipe(path)
    except EngineError as error:
        raise tool_error(error) from error
    wrong = fault(recipe, _RECIPE) or fault(recipe.get("pinned"), _PINNED, "pinned")
    for key, known in (("precision", DTYPES), ("lowering", ("plugin", "native"))):
        if not wrong and recipe[key] not in known:
            wrong = f"{key} is {recipe[key]!r}"
    if not wrong and recipe["quantized"] and recipe["quantized"]["bytes"] < 1:
        wrong = f"quantized.bytes is {recipe['quantized']['bytes']}"
    if not wrong and any(Path(recipe[key]).name != recipe[key] for key in ("engine", "record")):
        wrong = "engine and record do not lie beside it"
    if wrong:
        raise InputError(f"{path} is damaged: {wrong}. Lower the bundle again.")
    return recipe, digest


def read_record(path: Path) -> dict[str, Any]:
    """The record of an engine; InputError where the file is none, damaged, or of another schema."""
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is not whole JSON ({error}).") from error
    file = record.get("engine") if isinstance(record, dict) else None
    if file is None or fault(file, _ENGINE) or Path(file["file"]).name != file["file"]:
        raise InputError(f"{path} cannot be read: it is not the record of an engine.")
    if record.get("schema") != SCHEMA:
        raise InputError(f"{path} has schema {record.get('schema')}, this tool reads {SCHEMA}.")
    wrong = fault(record, _RECORD)
    if not wrong and record["flavor"] not in MODULES:
        wrong = f"flavor is {record['flavor']!r}"
    if wrong:
        raise InputError(f"{path} is damaged: {wrong}. Build the engine again.")
    return dict(record)
