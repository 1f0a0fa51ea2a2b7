"""float16 graphs in true half arithmetic, on a small input.

ONNX Runtime's CPU runs fp16 nodes in float32, so it cannot see an overflow; onnx.reference computes in the types that
are written in the graph, slowly.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..call_shapes import lengths_of
from ..inspection.graph_report import report_graph
from ..session import Arrays
from .golden import Case
from .replay import Pair

LARGEST_BYTES = 256 << 20
# Some minutes: NumPy has no fast products of half types.
LARGEST_MACS = 32 << 30
COLUMNS = 4
_ALL_COLUMNS_USED = 3
_WITH_IMAGE = 0
_BY_COLUMN = ("input_ids", "attention_mask", "position_ids", "logits_positions")


def true_half(bundle: Bundle, cases: Sequence[Case]) -> tuple[Iterator[Pair], list[str]]:
    """One golden row of every component, every node computed in its own type: an image, the first COLUMNS columns of a
    decoder row without padding, or a text with its image. Beside it, why not, for a component that cannot be run so."""
    rows = {case.component: case for case in cases if case.name == "rows"}
    small, reasons = [], []
    for name in bundle.manifest["components"]:
        data = bundle.graph(name, "fp16").with_suffix(".onnx.data")
        if name not in rows:
            reasons.append(f"true half arithmetic of {name} not run: there are no golden samples to run it on")
        # The reference evaluator loads all weights and computes in NumPy.
        elif data.stat().st_size > LARGEST_BYTES:
            reasons.append(f"true half arithmetic of {name} not run: its weights are too large for that")
        elif (macs := _macs(bundle, rows[name])) > LARGEST_MACS:
            work = f"{macs / 1e9:.0f} G multiply-accumulates are"
            reasons.append(f"true half arithmetic of {name} not run: {work} too much work for that")
        else:
            small.append(rows[name])
    return (_run(bundle, case) for case in small), reasons


def _macs(bundle: Bundle, case: Case) -> int:
    """What one row of the case takes at most."""
    shapes = {name: array.shape for name, array in _row(case.inputs, _WITH_IMAGE).items()}
    lengths = lengths_of(bundle.manifest["components"][case.component]["inputs"], shapes)
    return int(report_graph(bundle.graph(case.component, "fp16"), lengths)["cost"]["macs"])


def _run(bundle: Bundle, case: Case) -> Pair:
    import onnx
    from onnx.external_data_helper import load_external_data_for_model
    from onnx.inliner import inline_local_functions
    from onnx.reference import ReferenceEvaluator

    inputs = _row(case.inputs, _WITH_IMAGE)
    what = "an image" if any(name.startswith("pixel_values") for name in inputs) else "one row"
    output = next(iter(case.outputs))
    expected = case.outputs[output][_WITH_IMAGE : _WITH_IMAGE + 1]
    # Elsewhere a row's later columns reach its earlier ones.
    if "logits_positions" in inputs:
        inputs, what = _row(case.inputs, _ALL_COLUMNS_USED), f"{COLUMNS} columns"
        inputs |= {name: inputs[name][:, :COLUMNS] for name in _BY_COLUMN}
        expected = case.outputs[output][_ALL_COLUMNS_USED : _ALL_COLUMNS_USED + 1, :COLUMNS]
    path = bundle.graph(case.component, "fp16")
    # Within a function the evaluator knows no types, which its Gelu needs.
    model = inline_local_functions(onnx.load(path, load_external_data=False))
    load_external_data_for_model(model, str(path.parent))
    evaluator = ReferenceEvaluator(model)
    with np.errstate(all="ignore"):
        results: Any = evaluator.run([output], _typed(inputs, bundle.manifest["components"][case.component]))
    return Pair(case.component, f"rows: {what} in true half arithmetic", output, results[0], expected)


def _row(arrays: Arrays, row: int) -> Arrays:
    return {name: array[row : row + 1] for name, array in arrays.items()}


def _typed(inputs: Arrays, component: Mapping[str, Any]) -> Arrays:
    """Golden inputs are float32; ports of the graph's type take float16."""
    own = {port["name"] for port in component["inputs"] if port["dtype"] == "graph"}
    return {name: array.astype(np.float16) if name in own else array for name, array in inputs.items()}
