"""float16 graphs in true half arithmetic, on a small input.

ONNX Runtime's CPU runs fp16 nodes in float32, so it cannot see an overflow; onnx.reference computes in the types that
are written in the graph, slowly.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..bundle import Bundle
from .golden import Case
from .replay import Pair

LARGEST_BYTES = 256 << 20
COLUMNS = 4
_ROW = 3


def too_large(bundle: Bundle) -> bool:
    """Whether the reference evaluator, which loads all weights and computes in NumPy, is out of the question."""
    return bundle.graph("decoder", "fp16").with_suffix(".onnx.data").stat().st_size > LARGEST_BYTES


def true_half(bundle: Bundle, cases: Sequence[Case]) -> Iterator[Pair]:
    """The first COLUMNS columns of a golden decoder row without padding, every node computed in its own type."""
    from onnx.reference import ReferenceEvaluator

    for case in cases:
        if case.name != "rows" or "visual_memory" not in case.inputs:
            continue
        inputs = {name: array[_ROW : _ROW + 1] for name, array in case.inputs.items()}
        for name in ("input_ids", "attention_mask", "position_ids", "logits_positions"):
            inputs[name] = inputs[name][:, :COLUMNS]
        evaluator = ReferenceEvaluator(str(bundle.graph(case.component, "fp16")))
        halves = {n: a.astype(np.float16) if a.dtype == np.float32 else a for n, a in inputs.items()}
        with np.errstate(all="ignore"):
            results: Any = evaluator.run(["logits"], halves)
        expected = case.outputs["logits"][_ROW : _ROW + 1, :COLUMNS]
        yield Pair(case.component, f"rows: {COLUMNS} columns in true half arithmetic", "logits", results[0], expected)
