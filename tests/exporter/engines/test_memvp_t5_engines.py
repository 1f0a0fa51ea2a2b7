"""MemVP-T5 in half precision, and engines of it, built for real without a GPU: types of weights, memory sites, profiles
and caches."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from memvp_export import export_onnx, read_source
from memvp_export.examples.random_t5 import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.request import Request, settle
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.inspection.graph_report import report_graph

SIZES = replace(PRESETS["odd"], decoder_layers=1)
ASKED = Request(target="tensorrt", components=["encoder", "decoder"], max_batch=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5-engines")
    write_source(folder, SIZES)
    return export_onnx(read_source(folder), folder / "bundle", "fp16", golden=False).root


def engines(root: Path, lowering: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The manifest's entry of each component, and the record of what was read back."""
    bundle = Bundle.open(root, verify=True)
    found = [entry for entry in bundle.manifest["engines"] if entry["lowering"] == lowering]
    return {entry["component"]: (entry, json.loads(bundle.path(entry["layers"]).read_text())) for entry in found}


def types_of_weights(record: dict[str, Any]) -> dict[str, set[str]]:
    """The types of the stored matrices of each module."""
    found: dict[str, set[str]] = {}
    for layer in record["layers"]:
        module = layer["onnx"][0].removeprefix("node_of_").split("/")[0] if layer["onnx"] else ""
        kinds = {part["dtype"] for part in layer["constants"] if math.prod(part["dims"]) > SIZES.dim}
        if layer["type"] == "gemm" and kinds:
            found.setdefault(module, set()).update(kinds)
    return found


def test_a_single_pass_is_refused_where_answers_are_longer(root: Path) -> None:
    with pytest.raises(InputError, match="--single-pass is for answers of one token"):
        settle(Bundle.open(root), replace(ASKED, single_pass=True), elsewhere=True)


def test_engines_for_fewer_rows_than_beams_are_told_of(root: Path) -> None:
    bundle = Bundle.open(root)
    searched = Bundle(root, {**bundle.manifest, "generation": {**bundle.manifest["generation"], "num_beams": 5}})
    notes = [settle(one, ASKED, elsewhere=True).notes for one in (bundle, searched)]
    assert notes == [
        [],
        [
            "run takes 5 beams unless told otherwise, and these engines take 4 rows: build with --max-batch 5, or run "
            "with --beams 4"
        ],
    ]
    assert not settle(searched, replace(ASKED, max_batch=5), elsewhere=True).notes


def test_float16_keeps_wo_in_float32(root: Path) -> None:
    bundle = Bundle.open(root)
    assert bundle.keep_fp32("encoder", "fp16") == ("*.DenseReluDense.wo",) and not bundle.keep_fp32("vision", "fp16")
    stored = onnx.load(bundle.graph("encoder"), load_external_data=False).graph.initializer
    wide = {w.name for w in stored if w.data_type == onnx.TensorProto.FLOAT and w.data_location == w.EXTERNAL}
    assert wide == {"encoder.relative_attention_bias.weight", "encoder.block.0.layer.1.DenseReluDense.wo.weight"}
    assert "other" not in {island["reason"] for island in report_graph(bundle.graph("encoder"), {})["float32_islands"]}


def test_native_engines_are_half_but_for_what_overflows(tensorrt_here: None, root: Path) -> None:
    build_engines(root, ASKED)
    made = engines(root, "native")
    for entry, record in made.values():
        assert entry["keep_fp32"] == ["*.DenseReluDense.wo"] and record["plugin_layers"] == 0
        types = types_of_weights(record)
        kept = {module for module in types if module.endswith(".wo")}
        assert len(kept) == 1 and len(types) > 4
        assert all(kinds == {"float32" if module in kept else "float16"} for module, kinds in types.items())
    profiles = {profile["name"]: profile["shapes"] for profile in made["decoder"][0]["profiles"]}
    assert profiles["decode"]["input_ids"] == {"min": [1, 1], "opt": [2, 1], "max": [4, 1]}
    for shapes in profiles.values():
        assert shapes["past_key_values.0.encoder.key"]["max"] == [4, SIZES.heads, 20, SIZES.head_dim]
    assert made["decoder"][0]["cache"] == {"kind": "delta", "axis": 2, "layers": 1, "capacity": SIZES.max_sequence}


def test_the_plugin_stands_at_every_site(
    tensorrt_here: None, root: Path, plugin_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMVP_PLUGIN", str(plugin_library))
    build_engines(root, replace(ASKED, plugin="on"))
    made = engines(root, "plugin")
    assert {*made} == {"encoder", "decoder"}
    assert all(record["plugin_layers"] == 1 for _, record in made.values())
