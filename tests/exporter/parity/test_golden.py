"""Golden samples of models at the edges: one row at a time, and sequences that hardly have room for padding."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export import export_onnx, read_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.models.family import components_of
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.batches import InBatches, limits_in, limits_of
from memvp_export.exporter.parity.check import check
from memvp_export.exporter.parity.golden import LONG_COLUMNS, golden_bytes, record_golden, to_arrays
from memvp_export.exporter.parity.metrics import distance
from memvp_export.exporter.parity.replay import replay
from memvp_export.exporter.parity.samples import read_cases
from memvp_export.exporter.session import Arrays


class Watched:
    """Counts the rows of every call."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.rows: list[int] = []

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        self.rows.append(max(array.shape[0] for array in inputs.values()))
        return self.session.run(component, inputs, outputs)  # type: ignore[no-any-return]


def test_golden_bytes_are_those_of_the_recorded_tensors(bundle_of: Callable[[str], Path]) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    components = components_of(bundle.manifest["family"], bundle.manifest["config"])
    stored = to_arrays(read_cases(bundle))
    assert golden_bytes(components) == sum(array.nbytes for array in stored.values())


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_graph_that_takes_few_rows_is_given_no_more(bundle_of: Callable[[str], Path], most: int) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    components = [
        replace(part, ranges={**part.ranges, "batch": (1, most)})
        for part in components_of(bundle.manifest["family"], bundle.manifest["config"])
    ]
    watched = Watched(OnnxSession(bundle, threads=1))
    size = bundle.manifest["preprocessing"]["height"]
    pixels = [np.random.default_rng(0).standard_normal((3, size, size)).astype(np.float32)]
    cases = record_golden(watched, components, pixels, [[1, 5, 6, 7]])
    assert max(watched.rows) == most
    whole = {(case.component, case.name): case for case in record_golden(
        OnnxSession(bundle, threads=1), components_of(bundle.manifest["family"], bundle.manifest["config"]),
        pixels, [[1, 5, 6, 7]],
    )}  # fmt: skip
    for case in cases:
        for name, array in case.outputs.items():
            assert distance(array, whole[case.component, case.name].outputs[name]).relative_l2 < 1e-6
    watched.rows.clear()
    batched = InBatches(watched, limits_of(components))
    for case in cases:
        for pair in replay(batched, case, bundle.manifest["components"][case.component]):
            assert distance(pair.actual, pair.expected).relative_l2 < 1e-5
    assert max(watched.rows) == most


def test_limits_are_the_same_from_components_and_from_a_manifest(bundle_of: Callable[[str], Path]) -> None:
    manifest = Bundle.open(bundle_of("fp32")).manifest
    limits = limits_of(components_of(manifest["family"], manifest["config"]))
    assert limits == limits_in(manifest) and limits["vision"].rows == 64
    assert {"logits", "input_ids", "past_key_values.0.key"} <= limits["decoder"].ports


@pytest.mark.parametrize("columns", [2, 3, 8])
def test_the_smallest_sequences_have_golden_rows_that_can_be_replayed(
    bundle_of: Callable[[str], Path], columns: int
) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    components = [
        replace(part, ranges={**part.ranges, **({"sequence": (1, columns)} if part.name == "decoder" else {})})
        for part in components_of(bundle.manifest["family"], bundle.manifest["config"])
    ]
    session = OnnxSession(bundle, threads=1)
    size = bundle.manifest["preprocessing"]["height"]
    cases = record_golden(session, components, [np.zeros((3, size, size), np.float32)], [list(range(1, 30))])
    rows, long = (case for case in cases if case.component == "decoder")
    mask = rows.inputs["attention_mask"]
    assert mask.any(1).all() and mask[0, 0] == 0 and mask[1, -1] == 0 and mask[3].all()
    assert long.inputs["input_ids"].shape[1] == min(columns, LONG_COLUMNS)
    for case in cases:
        for pair in replay(session, case, bundle.manifest["components"][case.component]):
            assert distance(pair.actual, pair.expected).relative_l2 < 1e-5, pair.case


def test_a_model_of_one_row_and_eight_columns_goes_the_whole_way(odd_source: Path, tmp_path: Path) -> None:
    source = read_source(odd_source)
    options = {**source.options, "max_batch": 1, "max_sequence": 8, "max_new_tokens": 2}
    bundle = export_onnx(replace(source, options=options), tmp_path / "small", "fp32")
    (tmp_path / "data.jsonl").write_text('{"id": "a", "text": "what is it?"}\n{"id": "b", "text": "why?"}\n')
    report = check(bundle, data=tmp_path / "data.jsonl")
    assert report.passed, report.failures
    assert {"data, requests 1 to 1", "data, requests 2 to 2"} <= {result.case for result in report.outputs}
