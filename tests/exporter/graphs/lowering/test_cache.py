"""What a lowered decoder gives back of its cache."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from memvp_export.exporter.graphs.lowering import Lowered
from memvp_export.exporter.kv_cache import KVCache

from .decoder_inputs import LAYERS, decoder_inputs

Arrays = dict[str, np.ndarray]
LoweredOf = Callable[..., Lowered]
Run = Callable[[Path, Arrays], Arrays]
CALLS = ((2, 5, 7), (1, 1, 9), (2, 4, 0))


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("precision, tolerance", [("fp32", 2e-6), ("fp16", 2e-3)])
def test_delta_is_the_tail_of_concat(
    lowered_of: LoweredOf, run: Run, precision: str, tolerance: float, call: tuple[int, int, int]
) -> None:
    inputs = decoder_inputs(precision, *call)
    whole = run(lowered_of("decoder", precision, cache="concat").path, inputs)
    delta = run(lowered_of("decoder", precision).path, inputs)
    assert delta.keys() == whole.keys() and len(whole) == 1 + 2 * LAYERS
    for name, expected in whole.items():
        tail = expected[:, :, call[2] :] if name.startswith("present") else expected
        assert delta[name].shape == tail.shape
        # Angles come from a table: NumPy's cosine may differ from ONNX Runtime's in the last place.
        assert np.abs(delta[name].astype(np.float64) - tail).max() < tolerance * np.abs(expected).max(), name


def test_steps_with_the_runners_cache_continue_a_prefill(lowered_of: LoweredOf, run: Run) -> None:
    """Six columns at once, or four and then one by one: the same logits."""
    lowered = lowered_of("decoder", "fp32")
    entry = {"inputs": lowered.inputs, "outputs": lowered.outputs, "cache": lowered.cache}
    assert lowered.cache == {"kind": "delta", "axis": 2, "layers": LAYERS, "capacity": 512}
    once = decoder_inputs("fp32", 2, 6, 0)
    expected = run(lowered.path, once)["logits"]
    cache, logits = KVCache(entry, "fp32", 2), []
    for start, stop in ((0, 4), (4, 5), (5, 6)):
        step = {name: once[name][:, start:stop] for name in ("input_ids", "position_ids")}
        step |= {"attention_mask": once["attention_mask"][:, :stop], "visual_memory": once["visual_memory"]}
        step |= {"logits_positions": once["logits_positions"][:, : stop - start]} | cache.inputs()
        results = run(lowered.path, step)
        cache.update(results, stop - start)
        logits.append(results["logits"])
    # The first column of all is masked: with no column to see, its numbers mean nothing.
    difference = (np.concatenate(logits, 1) - expected)[:, 1:]
    assert np.abs(difference).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("precision, tolerance", [("fp32", 2e-6), ("fp16", 2e-3)])
def test_a_single_pass_is_a_prefill_after_nothing(
    lowered_of: LoweredOf, bundle_of: Callable[[str], Path], run: Run, precision: str, tolerance: float
) -> None:
    lowered = lowered_of("decoder", precision, single_pass=True)
    inputs = decoder_inputs(precision, 2, 5, 0)
    expected = run(bundle_of(precision) / "graphs" / "decoder.onnx", inputs)["logits"]
    actual = run(lowered.path, inputs)
    assert actual.keys() == {"logits"}
    assert np.abs(actual["logits"] - expected).max() < tolerance * np.abs(expected).max()
    changed = {**inputs, "visual_memory": inputs["visual_memory"] + np.float16(0.5)}
    assert np.abs(run(lowered.path, changed)["logits"] - expected).max() > 1e-2 * np.abs(expected).max()


def test_a_single_pass_knows_no_past(lowered_of: LoweredOf) -> None:
    lowered = lowered_of("decoder", "fp32", single_pass=True)
    assert lowered.cache is None and set(lowered.ranges) == {"batch", "sequence", "positions"}
    assert [(port["name"], port["dims"]) for port in lowered.inputs] == [
        ("input_ids", ["batch", "sequence"]),
        ("attention_mask", ["batch", "sequence"]),
        ("position_ids", ["batch", "sequence"]),
        ("logits_positions", ["batch", "positions"]),
        ("visual_memory", ["batch", 256, 96]),
    ]
    assert b"past" not in lowered.path.read_bytes() and b"present" not in lowered.path.read_bytes()


def test_delta_declares_the_new_columns_and_keeps_the_rest(lowered_of: LoweredOf) -> None:
    lowered = lowered_of("decoder", "bf16")
    assert [(p["name"], p["dtype"], p["dims"]) for p in lowered.outputs] == [
        ("logits", "float32", ["batch", "positions", 150]),
        *(
            (f"present.{i}.{kind}", "bfloat16", ["batch", 6, "sequence", 16])
            for i in range(LAYERS)
            for kind in ("key", "value")
        ),
    ]
    dims = {port["name"]: port["dims"] for port in lowered.inputs}
    assert dims["attention_mask"] == ["batch", "past_sequence + sequence"]
    assert dims["past_key_values.2.value"] == ["batch", 6, "past_sequence", 16]


def test_angles_are_looked_up_where_the_cache_is_read(lowered_of: LoweredOf, run: Run) -> None:
    """Every layer reads one gather's result; the last position that past and columns can have is in the table."""
    lowered = lowered_of("decoder", "fp32")
    graph = onnx.load(lowered.path, load_external_data=False).graph
    assert not {node.op_type for node in graph.node} & {"Cos", "Sin"}
    tables = [tensor for tensor in graph.initializer if tensor.name.endswith("/table")]
    assert [list(tensor.dims) for tensor in tables] == [[512, 8]] * 2
    inputs = decoder_inputs("fp32", 1, 1, 3)
    answers = []
    for position in (3, 510, 511):
        inputs["position_ids"][:] = position
        answers.append(run(lowered.path, inputs)["logits"])
        published = run(lowered_of("decoder", "fp32", cache="concat").path, inputs)["logits"]
        assert np.abs(answers[-1] - published).max() < 1e-5 * np.abs(published).max()
    assert not np.allclose(answers[0], answers[1], rtol=1e-3) and not np.array_equal(answers[1], answers[2])
