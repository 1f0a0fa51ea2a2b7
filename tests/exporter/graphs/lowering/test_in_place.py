"""A cache that is written in place gives what the published decoder gives, with no other input."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs.lowering import Lowered
from memvp_export.exporter.graphs.lowering.in_place import write_in_place
from memvp_export.exporter.inspection.values import load_graph
from memvp_export.exporter.kv_cache import KVCache

from .decoder_inputs import LAYERS, decoder_inputs

Arrays = dict[str, np.ndarray]
LoweredOf = Callable[..., Lowered]
Run = Callable[[Path, Arrays], Arrays]
CAPACITY = 20


def masked_rows() -> np.ndarray:
    """Three rows of a full cache: padding on the left, a hole that prefill leaves, one among the steps."""
    mask = np.ones((3, CAPACITY), np.int64)
    mask[0, :4], mask[1, 3:5], mask[2, 9] = 0, 0, 0
    return mask


def in_calls(run: Run, lowered: Lowered, precision: str, ends: tuple[int, ...]) -> tuple[np.ndarray, KVCache]:
    """Logits of all columns up to the last end, [B,columns,V], and the cache after them."""
    mask, whole = masked_rows(), decoder_inputs(precision, 3, CAPACITY, 0)
    entry = {"inputs": lowered.inputs, "outputs": lowered.outputs, "cache": lowered.cache}
    cache, logits = KVCache(entry, precision, 3), []
    for start, end in zip((0, *ends), ends, strict=False):
        call = {name: whole[name][:, start:end] for name in ("input_ids", "position_ids")}
        call |= {"attention_mask": mask[:, :end], "logits_positions": whole["logits_positions"][:, : end - start]}
        results = run(lowered.path, {**call, "visual_memory": whole["visual_memory"], **cache.inputs()})
        cache.update(results, end - start)
        logits.append(results["logits"])
    return np.concatenate(logits, 1), cache


@pytest.mark.parametrize("precision, tolerance", [("fp32", 5e-6), ("fp16", 4e-3)])
@pytest.mark.parametrize("ends", [(CAPACITY,), (8, 9, 10, 13, 14), (1, 12, CAPACITY - 1, CAPACITY)], ids=str)
def test_prefill_chunks_and_steps_are_those_of_the_published_form(
    lowered_of: LoweredOf, run: Run, precision: str, tolerance: float, ends: tuple[int, ...]
) -> None:
    concat = lowered_of("decoder", precision, cache="concat")
    in_place = lowered_of("decoder", precision, cache="in_place", capacity=CAPACITY)
    expected, grown = in_calls(run, concat, precision, ends)
    found, buffers = in_calls(run, in_place, precision, ends)
    used = masked_rows()[:, : ends[-1]] != 0
    assert np.abs(found - expected)[used].max() < tolerance * np.abs(expected).max()
    for name, columns in grown.held().items():
        difference = np.abs(buffers.held()[name].astype(np.float32) - columns).transpose(0, 2, 1, 3)[used]
        assert difference.max() < tolerance * np.abs(columns).max(), name
        assert not buffers.inputs()[name][:, :, ends[-1] :].any(), "slots behind are not touched"


def test_what_lies_in_masked_slots_and_behind_does_not_matter(lowered_of: LoweredOf, run: Run) -> None:
    lowered = lowered_of("decoder", "fp32", cache="in_place", capacity=CAPACITY)
    inputs = decoder_inputs("fp32", 2, 2, 9)
    rng = np.random.default_rng(3)
    names = [name for name in inputs if name.startswith("past_key_values.")]
    inputs |= {name: rng.standard_normal((2, 6, CAPACITY, 16)).astype(np.float32) for name in names}
    inputs["attention_mask"][:, 4] = 0
    expected = run(lowered.path, inputs)["logits"]

    def with_slot(slot: int) -> np.ndarray:
        changed = {name: inputs[name].copy() for name in names}
        for array in changed.values():
            array[:, :, slot] += 5
        return run(lowered.path, {**inputs, **changed})["logits"]

    for slot in (4, 9, 10, 11, CAPACITY - 1):
        np.testing.assert_array_equal(with_slot(slot), expected)
    assert np.abs(with_slot(3) - expected).max() > 1e-2


def test_ports_are_static_and_the_rest_is_as_published(lowered_of: LoweredOf) -> None:
    lowered = lowered_of("decoder", "fp32", cache="in_place", capacity=CAPACITY)
    assert lowered.cache == {"kind": "in_place", "axis": 2, "layers": LAYERS, "capacity": CAPACITY}
    delta = lowered_of("decoder", "fp32")
    assert [port["name"] for port in lowered.inputs] == [port["name"] for port in delta.inputs]
    dims = {port["name"]: port["dims"] for port in (*lowered.inputs, *lowered.outputs)}
    assert dims["attention_mask"] == ["batch", "past_sequence + sequence"]
    assert dims["past_key_values.2.value"] == dims["present.2.value"] == ["batch", 6, CAPACITY, 16]
    assert lowered.ranges == {**delta.ranges, "sequence": [1, CAPACITY], "past_sequence": [0, CAPACITY - 1]}
    # All that the graph takes, where nobody says how much.
    assert lowered_of("decoder", "fp32", cache="in_place").cache == {**lowered.cache, "capacity": 512}


def test_only_this_form_needs_the_newer_opset(lowered_of: LoweredOf) -> None:
    def opset(lowered: Lowered) -> int:
        return next(o.version for o in onnx.load(lowered.path, load_external_data=False).opset_import if not o.domain)

    lowered = lowered_of("decoder", "fp32", cache="in_place", capacity=CAPACITY)
    assert opset(lowered) == 24
    onnx.checker.check_model(str(lowered.path), full_check=True)
    kinds = [node.op_type for node in onnx.load(lowered.path, load_external_data=False).graph.node]
    assert kinds.count("TensorScatter") == 2 * LAYERS and "Range" in kinds
    assert opset(lowered_of("decoder", "fp32")) == opset(lowered_of("decoder", "fp32", cache="concat")) == 20
    assert opset(lowered_of("vision", "fp32", cache="in_place")) == 20


def test_a_graph_that_measures_its_past_otherwise_is_refused(bundle_of: Callable[[str], Path]) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    entry = bundle.manifest["components"]["decoder"]
    graph = load_graph(bundle.graph("decoder", "fp32")).graph
    shape = next(node for node in graph.node if node.op_type == "Shape" and node.input[0].startswith("past"))
    whole = SimpleNamespace(**{a.name: a for a in shape.attribute})
    whole.end.i = 4
    with pytest.raises(InputError, match="takes the past's length from the past"):
        write_in_place(graph, entry, CAPACITY)
    whole.end.i = 1
    mask = next(value for value in graph.input if value.name == "attention_mask")
    mask.type.tensor_type.shape.dim[1].dim_param = "sequence"
    with pytest.raises(InputError, match="no mask that tells the past's length"):
        write_in_place(graph, entry, CAPACITY)
