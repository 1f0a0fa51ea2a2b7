"""Every way in which an engine can differ from its request is a failure of its own; stated on small records."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from memvp_export.exporter.engines.readback import cache_copies, precision_share, verdict

Edit = Callable[[dict[str, Any]], None]
CACHE = {"kind": "delta", "axis": 2, "layers": 1, "capacity": 64}


def tensor(name: str, dims: list[int], dtype: str = "float16") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "dims": dims}


def layer(name: str, inputs: list[Any], outputs: list[Any], **more: Any) -> dict[str, Any]:
    flags = {"type": "kgen", "constants": [], "onnx": [name], "matrix": False, "plugin": False}
    return {"name": name, "inputs": inputs, "outputs": outputs, **flags, **more}


def shapes(batch: int, columns: int, past: int) -> dict[str, dict[str, list[int]]]:
    def of(rows: int, new: int, held: int) -> dict[str, list[int]]:
        return {"input_ids": [rows, new], "past_key_values.0.key": [rows, 2, held, 16]}

    sizes = {"min": of(1, 1, 0), "opt": of(batch, columns, past), "max": of(batch, columns, past)}
    return {name: {which: sizes[which][name] for which in sizes} for name in sizes["min"]}


PROFILES = [{"name": "prefill", "shapes": shapes(2, 8, 24)}, {"name": "decode", "shapes": shapes(2, 1, 31)}]
RECIPE: dict[str, Any] = {
    "component": "decoder",
    "precision": "fp16",
    "lowering": "native",
    "memory_sites": 1,
    "plugin": None,
    "cache": CACHE,
    "inputs": [
        {"name": "input_ids", "dtype": "int64", "dims": ["batch", "sequence"]},
        {"name": "past_key_values.0.key", "dtype": "float16", "dims": ["batch", 2, "past", 16]},
    ],
    "outputs": [
        {"name": "logits", "dtype": "float32", "dims": ["batch", "sequence", 50]},
        {"name": "present.0.key", "dtype": "float16", "dims": ["batch", 2, "sequence", 16]},
    ],
    "profiles": PROFILES,
}
PAST, PRESENT = tensor("past_key_values.0.key", [-1, 2, -1, 16]), tensor("present.0.key", [-1, 2, -1, 16])


def decode(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "name": f"{part['name']} [profile 1]"}


def good() -> dict[str, Any]:
    hidden = tensor("hidden", [-1, 32])
    return {
        "engine": {"file": "decoder.fp16.engine", "size": 1000, "sha256": "0"},
        "tensorrt": "11.4.0",
        "flavor": "tensorrt",
        "gpu": None,
        "seconds": {"parse": 0.1, "build": 1.0},
        "read_from": "log",
        "plugin": None,
        "plugin_layers": 0,
        "network_plugin_layers": 0,
        "inputs": [tensor("input_ids", [-1, -1], "int64"), PAST],
        "outputs": [tensor("logits", [-1, -1, 50], "float32"), PRESENT],
        "profiles": copy.deepcopy(PROFILES),
        "layers": [
            layer(
                "q_proj/MatMul",
                [hidden],
                [hidden],
                type="gemm",
                matrix=True,
                constants=[tensor("weights", [32, 64]), tensor("factor", [1], "float32")],
            ),
            layer("join", [PAST], [tensor("joined", [-1, -1, 16]), PRESENT]),
            layer(
                "attention", [tensor("mask", [-1, 1], "float32"), tensor("joined", [-1, -1, 16])], [hidden], matrix=True
            ),
            layer("attention at a step", [decode(PAST), hidden], [decode(PRESENT), hidden], matrix=True),
            layer("mlp/VisualMemoryFFN/merged", [hidden], [hidden], type="gemm", matrix=True),
        ],
    }


def of_fp32(record: dict[str, Any]) -> None:
    for part in record["layers"][0]["constants"]:
        part["dtype"] = "float32"


def copies_at_a_step(record: dict[str, Any]) -> None:
    record["layers"].append(layer("step copy", [decode(PAST)], [decode(tensor("joined", [-1, -1, 16]))]))


def a_port_less(record: dict[str, Any]) -> None:
    del record["outputs"][1]


def another_type(record: dict[str, Any]) -> None:
    record["inputs"][0]["dtype"] = "int32"


def another_size(record: dict[str, Any]) -> None:
    record["outputs"][0]["dims"] = [-1, -1, 51]


def as_long_as_the_past(record: dict[str, Any]) -> None:
    record["outputs"][1] = {**PRESENT, "opt": [2, 2, 32, 16]}


def a_profile_less(record: dict[str, Any]) -> None:
    del record["profiles"][1]


def a_smaller_profile(record: dict[str, Any]) -> None:
    record["profiles"][0]["shapes"]["input_ids"]["max"] = [1, 8]


def a_plugin(record: dict[str, Any]) -> None:
    record["plugin_layers"] = 1


def a_plugin_in_the_network(record: dict[str, Any]) -> None:
    record["network_plugin_layers"] = 1


def nothing_read(record: dict[str, Any]) -> None:
    record["layers"] = []


def test_an_engine_that_is_what_was_asked_for_has_no_failures() -> None:
    assert verdict(RECIPE, good()) == []
    short = good()
    short["outputs"][1] = {**PRESENT, "opt": [2, 2, 8, 16]}
    assert verdict(RECIPE, short) == []


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (of_fp32, "fp16 was asked for, and 0% of the weights"),
        (copies_at_a_step, "profile decode, 1 layers write copies of the cache"),
        (a_port_less, "the outputs of graph and engine differ: present.0.key"),
        (another_type, "input_ids is int32 in the engine, int64 was asked for"),
        (another_size, "logits has dims [-1, -1, 51]"),
        (
            as_long_as_the_past,
            "present.0.key comes back as [2, 2, 32, 16] at the first profile's opt shapes, not as [2, 2, 8",
        ),
        (a_profile_less, "the profiles prefill, decode were asked for, the engine has prefill"),
        (a_smaller_profile, "profile prefill of the engine takes"),
        (a_plugin, "native lowering was asked for, which has 0 plugin layers: the engine has 1"),
        (a_plugin_in_the_network, "the network has 1"),
        (nothing_read, "could not be read"),
    ],
)
def test_each_difference_is_a_failure(edit: Edit, words: str) -> None:
    record = good()
    edit(record)
    failures = verdict(RECIPE, record)
    assert len(failures) == 1 and words in failures[0], failures


def test_the_plugin_that_was_asked_for_must_be_there_in_the_right_type() -> None:
    asked = {**RECIPE, "lowering": "plugin", "plugin": {"embed": True}}
    failures = verdict(asked, {**good(), "plugin": {"embedded": True}})
    assert [failure.split(": ")[1] for failure in failures] == ["the network has 0.", "the engine has 0."]
    record = {**good(), "plugin": {"embedded": True}, "plugin_layers": 1, "network_plugin_layers": 1}
    lookup = layer("memory", [tensor("hidden", [-1, 32])], [tensor("out", [-1, 32])], type="custom_layer", plugin=True)
    record["layers"].append(lookup)
    assert verdict(asked, record) == []
    assert verdict(asked, {**record, "plugin": {"embedded": False}}) == [
        "the plugin was to be embedded, and the engine does not hold it."
    ]
    lookup["inputs"][0]["dtype"] = "float32"
    assert verdict(asked, record) == ["fp16 was asked for, and plugin layers take another type: memory."]


def test_shares_count_weights_by_their_bytes() -> None:
    record = good()
    kept = layer("kept/MatMul", [], [], matrix=True, constants=[tensor("table", [16, 32], "float32")])
    record["layers"].append(kept)
    share = precision_share(record, "float16")
    half, full = 32 * 64 * 2, 16 * 32 * 4
    assert share.bytes == half / (half + full) and share.layers == 4 / 5 and share.others == ["kept/MatMul"]
    # The mask that is added inside is float32; the operands are not.
    assert precision_share(good(), "float16").layers == 1


def test_copies_are_found_through_other_copies_and_declared_ones_are_not() -> None:
    record = good()
    again = tensor("again", [-1, 2, -1, 16])
    record["layers"].insert(2, layer("copy of a copy", [tensor("joined", [-1, -1, 16])], [again]))
    assert cache_copies(CACHE, record) == {"prefill": ["join", "copy of a copy"], "decode": []}
    concat = {**CACHE, "kind": "concat"}
    record["layers"] = [layer("write the cache", [PAST], [PRESENT])]
    assert cache_copies(concat, record) == {"prefill": [], "decode": []}
    assert cache_copies(CACHE, record) == {"prefill": ["write the cache"], "decode": []}
    assert cache_copies(None, record) == {}


def test_in_place_new_columns_are_written_and_anything_as_long_as_the_buffer_is_a_copy() -> None:
    # As wide as it is long: a mask over all columns is not taken for one.
    asked = {**CACHE, "kind": "in_place", "capacity": 16}
    buffers = [tensor(name, [-1, 2, 16, 16]) for name in ("past_key_values.0.key", "present.0.key")]
    past, present = map(decode, buffers)
    mask = decode(tensor("mask", [-1, 1, 16]))
    record = {**good(), "inputs": buffers[:1], "outputs": buffers[1:]}
    write = layer("write", [past, decode(tensor("new", [-1, 2, 1, 16]))], [present, mask])
    attend = layer("attend", [present, mask], [decode(tensor("seen", [-1, 2, 1, 16]))], matrix=True)
    record["layers"] = [write, attend]
    assert cache_copies(asked, record) == {"prefill": [], "decode": []}
    moved = layer("move", [present], [decode(tensor("moved", [-1, 2, 16, 16]))])
    record["layers"] = [write, moved, attend]
    assert cache_copies(asked, record) == {"prefill": [], "decode": ["move"]}
    failures = verdict({**RECIPE, "cache": asked}, record)
    assert any("1 layers write copies of the cache" in failure for failure in failures), failures


def test_copies_of_a_cache_are_refused_with_what_does_not_copy() -> None:
    record = good()
    copies_at_a_step(record)
    (failure,) = verdict(RECIPE, record)
    assert "TensorRT 11.4.0 does not read the past where it lies: build with --cache concat" in failure
    assert verdict({**RECIPE, "cache": {**CACHE, "kind": "concat"}}, record) == []
    weights = {**RECIPE, "precision": "int8-weights", "quantized": {"dtype": "float16", "layers": 1, "bytes": 1}}
    (failure,) = verdict(weights, record)
    assert "where it lies with weights that are quantized alone: build with --cache concat" in failure


def with_kept(kept: str, attention: str = "float16") -> dict[str, Any]:
    """The good engine with a product that was to stay float32, beside an attention of two activations."""
    record = good()
    wide = tensor("wide", [-1, 32], "float32")
    record["layers"] += [
        layer("wide", [wide], [wide], onnx=["mlp/MatMul", "mlp/Cast"], matrix=True),
        layer("scores", [tensor("scores", [-1, 32], attention)], [wide], onnx=["v_proj/MatMul_2"], matrix=True),
    ]
    record["layers"][-2]["constants"] = [tensor("weights", [64, 64], kept), tensor("factor", [1], "float32")]
    return record


KEEP = {"patterns": ["mlp"], "nodes": ["mlp/MatMul", "v_proj/MatMul_2"], "stored": ["mlp/MatMul"]}


def test_what_was_to_stay_float32_counts_neither_against_half_nor_is_lost() -> None:
    record = with_kept("float32")
    (failure,) = verdict(RECIPE, record)
    assert failure.startswith("fp16 was asked for, and 20% of the weights"), failure
    recipe = {**RECIPE, "keep_fp32": KEEP}
    assert verdict(recipe, record) == [] and verdict(recipe, with_kept("float32", "float32")) == []
    (failure,) = verdict(recipe, with_kept("float16"))
    assert failure == "float32 was to be kept, and these are of another type: mlp/MatMul."
    # The others must still be half.
    of_fp32(record)
    (failure,) = verdict(recipe, record)
    assert failure.startswith("fp16 was asked for, and 0% of the weights"), failure


def test_where_all_products_are_kept_none_has_to_be_half() -> None:
    record = with_kept("float32")
    record["layers"] = [part for part in record["layers"] if part["name"] == "wide" or not part["matrix"]]
    assert verdict({**RECIPE, "keep_fp32": KEEP}, record) == []
    assert len(verdict(RECIPE, record)) == 1


@pytest.mark.parametrize(("dtype", "failures"), [("float32", 0), ("float16", 1)])
def test_a_plugin_layer_that_was_to_stay_float32(dtype: str, failures: int) -> None:
    record = good()
    record["layers"].append(layer("memory", [tensor("x", [-1, 32], dtype)], [], onnx=["mlp/Memory"], plugin=True))
    record |= {"plugin_layers": 1, "network_plugin_layers": 1, "plugin": {"embedded": False}}
    keep = {"patterns": ["mlp"], "nodes": ["mlp/Memory"], "stored": ["mlp/Memory"]}
    found = verdict({**RECIPE, "lowering": "plugin", "keep_fp32": keep}, record)
    assert len(found) == failures and all("mlp/Memory" in failure for failure in found)
