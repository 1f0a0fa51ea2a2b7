"""Recipes and records from outside are read whole or refused; nothing in them is a bug of this tool."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.engines.written import read_record, read_whole_recipe
from memvp_export.exporter.errors import InputError

PORTS = [{"name": "x", "dtype": "float16", "dims": ["batch", 8]}]
PARTS = [{"name": "x", "dtype": "float16", "dims": [-1, 8]}]
PROFILES = [{"name": "default", "shapes": {"x": {"min": [1, 8], "opt": [2, 8], "max": [4, 8]}}}]
RECIPE: dict[str, Any] = {
    "schema": 1,
    "component": "vision",
    "source": {},
    "onnx": "vision.onnx",
    "engine": "vision.engine",
    "record": "vision.json",
    "target": "tensorrt",
    "precision": "fp16",
    "lowering": "native",
    "memory_sites": 0,
    "inputs": PORTS,
    "outputs": PORTS,
    "ranges": {"batch": [1, 4]},
    "cache": None,
    "profiles": PROFILES,
    "workspace": None,
    "builder_effort": None,
    "timing_cache": None,
    "plugin": None,
    "quantized": {"dtype": "int8", "layers": 2, "bytes": 64},
    "keep_fp32": {"patterns": ["a"], "nodes": ["a/MatMul"], "stored": []},
}
LAYER = {"name": "a", "type": "gemm", "inputs": PARTS, "constants": PARTS, "outputs": PARTS, "onnx": ["a"]}
RECORD: dict[str, Any] = {
    "schema": 1,
    "engine": {"file": "vision.engine", "size": 3, "sha256": "00"},
    "recipe_sha256": "00",
    "tensorrt": "11.4",
    "module": "tensorrt",
    "flavor": "tensorrt",
    "gpu": None,
    "platform": {},
    "plugin": None,
    "seconds": {"parse": 1, "build": 0.5},
    "peak_mib": None,
    "read_from": "log",
    "inputs": PARTS,
    "outputs": PARTS,
    "profiles": PROFILES,
    "plugin_layers": 0,
    "network_plugin_layers": 0,
    "layers": [{**LAYER, "matrix": True, "plugin": False}],
}


def test_whole_ones_are_read(tmp_path: Path) -> None:
    for content, read in ((RECIPE, lambda path: read_whole_recipe(path)[0]), (RECORD, read_record)):
        (tmp_path / "file.json").write_text(json.dumps(content))
        assert read(tmp_path / "file.json") == content


REQUIRED = {
    "schema",
    "target",
    "engine",
    "record",
    "precision",
    "lowering",
    "memory_sites",
    "source",
    "inputs",
    "ranges",
    "quantized",
    "keep_fp32",
}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda recipe: [recipe.pop(key) for key in [*recipe] if key not in ("schema", "target")], "is missing"),
        *[(lambda recipe, key=key: recipe.pop(key), key) for key in sorted(REQUIRED)],
        (lambda recipe: recipe["inputs"][0].pop("dims"), r"inputs\[0\]\.dims is missing"),
        (lambda recipe: recipe["profiles"][0].update(shapes=[]), r"profiles\[0\]\.shapes is not what it should be"),
        (lambda recipe: recipe.update(plugin={"operators": ["A"]}), "plugin.embed is missing"),
        (lambda recipe: recipe.update(quantized=5), "quantized is not what it should be"),
        (lambda recipe: recipe["quantized"].pop("dtype"), "quantized.dtype is missing"),
        (lambda recipe: recipe["quantized"].update(bytes=0), "quantized.bytes is 0"),
        (lambda recipe: recipe.update(keep_fp32=["a"]), "keep_fp32 is not what it should be"),
        (lambda recipe: recipe["keep_fp32"].pop("stored"), "keep_fp32.stored is missing"),
        (lambda recipe: recipe.update(precision="int4"), "precision is 'int4'"),
        (lambda recipe: recipe.update(lowering="both"), "lowering is 'both'"),
        (lambda recipe: recipe.update(engine="../vision.engine"), "do not lie beside it"),
    ],
)
def test_a_recipe_that_lacks_something_is_bad_input(edit: Any, message: str, tmp_path: Path) -> None:
    changed = copy.deepcopy(RECIPE)
    edit(changed)
    (tmp_path / "vision.recipe.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=message) as failure:
        read_whole_recipe(tmp_path / "vision.recipe.json")
    assert "vision.recipe.json" in str(failure.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda record: record.clear(), "not the record of an engine"),
        (lambda record: record["engine"].pop("size"), "not the record of an engine"),
        (lambda record: record.pop("seconds"), "seconds is missing"),
        (lambda record: record.pop("gpu"), "gpu is missing"),
        (lambda record: record.update(gpu="H200"), "gpu is not what it should be"),
        (lambda record: record.update(flavor="banana"), "flavor is 'banana'"),
        (lambda record: record["layers"][0].pop("matrix"), r"layers\[0\]\.matrix is missing"),
        (lambda record: record["layers"][0].update(inputs=[{"name": "x"}]), r"inputs\[0\]\.dtype is missing"),
    ],
)
def test_a_record_that_lacks_something_is_bad_input(edit: Any, message: str, tmp_path: Path) -> None:
    changed = copy.deepcopy(RECORD)
    edit(changed)
    (tmp_path / "vision.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=message):
        read_record(tmp_path / "vision.json")
