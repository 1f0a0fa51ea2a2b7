"""What is in the engines of a MemVP-BART, built for real without a GPU."""

import json

import pytest
from memvp_export import export_onnx, read_source
from memvp_export.examples.random_bart import PRESETS, write_source
from memvp_export.exporter.bench.loads import plan_loads
from memvp_export.exporter.bench.options import Options
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.engines.build import build_engines
from memvp_export.exporter.engines.request import Request
from memvp_export.exporter.errors import InputError

SIZES = PRESETS["odd"]


@pytest.fixture(scope="module")
def built(tensorrt_here: None, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bart")
    write_source(folder, SIZES)
    root = export_onnx(read_source(folder), folder / "bundle", "fp16", golden=False).root
    build_engines(root, Request(target="tensorrt", precision="fp16", max_batch=4, max_seq=22))
    return Bundle.open(root, verify=True)


def test_every_component_has_an_engine_with_its_sites(built: Bundle) -> None:
    entries = {entry["component"]: entry for entry in built.manifest["engines"]}
    assert entries.keys() == {"vision", "encoder", "decoder"}
    stems = {"encoder": "model.encoder.layers", "decoder": "model.decoder.layers"}
    for name, layers in (("encoder", SIZES.layers), ("decoder", SIZES.decoder_layers)):
        record = json.loads(built.path(entries[name]["layers"]).read_text())
        sites = {
            node.removeprefix("node_of_").split("/")[0]
            for layer in record["layers"]
            for node in layer["onnx"]
            if "VisualMemoryFFN" in node
        }
        assert sites == {f"{stems[name]}.{i}.fc2" for i in range(layers)}


def test_a_step_takes_any_past_and_any_text(built: Bundle) -> None:
    (entry,) = (entry for entry in built.manifest["engines"] if entry["component"] == "decoder")
    assert entry["cache"] == {"kind": "delta", "axis": 2, "layers": SIZES.decoder_layers, "capacity": SIZES.max_sequence}
    profiles = {profile["name"]: profile["shapes"] for profile in entry["profiles"]}
    heads = [4, SIZES.heads]
    width = SIZES.dim // SIZES.heads
    assert profiles["decode"]["input_ids"]["max"] == [4, 1]
    assert profiles["decode"]["past_key_values.0.decoder.key"]["max"] == [*heads, 21, width]
    assert profiles["decode"]["past_key_values.1.encoder.value"]["max"] == [*heads, 20, width]
    assert profiles["prefill"]["encoder_attention_mask"] == {"min": [1, 1], "opt": [2, 20], "max": [4, 20]}


def test_loads_are_read_prefilled_and_written(built: Bundle) -> None:
    components = built.manifest["components"]
    cached = {name: bool(part["cache"]) for name, part in components.items()}
    ranges = {name: part["ranges"] for name, part in components.items()}
    loads = plan_loads(cached, ranges, Options(new_tokens=3))
    assert {(load.stage, load.columns, load.past) for load in loads} == {
        ("vision", 0, 0),
        ("encoder", 20, 0),
        ("prefill", 26, 0),
        ("decode", 1, 25),
        ("answer", 3, 0),
    }


def test_a_buffer_in_place_is_refused_with_what_to_do(built: Bundle) -> None:
    with pytest.raises(InputError, match="use --cache delta"):
        build_engines(built.root, Request(target="tensorrt", precision="fp16", cache="in_place", max_seq=20))
