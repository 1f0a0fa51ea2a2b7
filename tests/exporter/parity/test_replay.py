"""Golden rows are replayed in prefill, chunks and steps, so that every kind of fault is seen."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.metrics import distance
from memvp_export.exporter.parity.replay import replay
from memvp_export.exporter.parity.samples import read_cases
from memvp_export.exporter.parity.thresholds import THRESHOLDS
from memvp_export.exporter.session import Arrays

from .altered import Altered


def failing(session: Altered, bundle: Bundle) -> Iterator[tuple[str, str]]:
    for case in read_cases(bundle):
        for pair in replay(session, case, bundle.manifest["components"][case.component]):
            if not distance(pair.actual, pair.expected).relative_l2 <= THRESHOLDS["fp32"].relative_l2:
                yield pair.case, pair.output


def _later(array: np.ndarray) -> np.ndarray:
    """A past whose newest column is lost."""
    return np.concatenate([np.zeros_like(array[:, :, :1]), array[:, :, :-1]], 2) if array.shape[2] else array


FAULTS: dict[str, tuple[str, Callable[[Arrays], Arrays], set[str]]] = {
    "indicator ignored": ("image_indicator", np.ones_like, {"rows"}),
    "mask ignored": ("attention_mask", np.ones_like, {"rows: prefill", "rows: chunks"}),
    "positions ignored": ("position_ids", lambda a: np.tile(np.arange(a.shape[1]), (len(a), 1)), {"rows: chunks"}),
    "image ignored": ("visual_memory", np.zeros_like, {"rows: prefill", "long"}),
    "first image for all rows": ("visual_memory", lambda a: np.repeat(a[:1], len(a), 0), {"rows: prefill"}),
    "past forgotten": ("past_key_values.1.key", np.zeros_like, {"rows: chunks", "rows: prefill, then steps"}),
    "past shifted": ("past_key_values.2.value", _later, {"rows: chunks", "rows: prefill, then steps"}),
    "logits of the last column only": ("logits_positions", lambda a: a.max() + 0 * a, {"rows: prefill", "long"}),
}


@pytest.mark.parametrize(("port", "fault", "seen"), FAULTS.values(), ids=list(FAULTS))
def test_replay_sees_every_kind_of_fault(
    bundle_of: Callable[[str], Path], port: str, fault: Callable[..., Any], seen: set[str]
) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    session = OnnxSession(bundle, threads=1)
    altered = Altered(session, lambda inputs: {port: fault(inputs[port])} if port in inputs else None)
    assert {case for case, _ in failing(altered, bundle)} >= seen
    if port.startswith("past"):
        assert "rows: prefill" not in {case for case, _ in failing(altered, bundle)}


def test_replay_runs_prefill_chunks_steps_and_a_trimmed_row(bundle_of: Callable[[str], Path]) -> None:
    bundle = Bundle.open(bundle_of("fp32"))
    session = Altered(OnnxSession(bundle, threads=1), lambda inputs: None)
    assert list(failing(session, bundle)) == []
    *splits, trimmed, long = session.columns
    assert splits == [24, 8, 8, 8, 22, 1, 1] and trimmed < 24 and long == 128
