"""Golden cases run again through another session: whole, and a decoder also in chunks, in steps and without padding."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kv_cache import KVCache
from ..session import Arrays, Session
from .golden import Case


@dataclass(frozen=True)
class Pair:
    """One output beside its reference; columns that no question asks about (padding) are removed from both."""

    component: str
    case: str
    output: str
    actual: np.ndarray
    expected: np.ndarray


def replay(session: Session, case: Case, component: Mapping[str, Any]) -> Iterator[Pair]:
    """Run `case` in every way its component (as the manifest describes it) allows; outputs beside the golden ones."""
    if not component["cache"]:
        outputs = session.run(case.component, case.inputs, list(case.outputs))
        for name, expected in case.outputs.items():
            yield Pair(case.component, case.name, name, outputs[name], expected)
        return
    columns = case.inputs["input_ids"].shape[1]
    if case.name != "rows":
        outputs = session.run(case.component, case.inputs, ["logits"])
        yield Pair(case.component, case.name, "logits", outputs["logits"], case.outputs["logits"])
        return
    third = -(-columns // 3)
    splits = {
        "prefill": [columns],
        "chunks": sorted({third, min(2 * third, columns), columns}),
        "prefill, then steps": sorted({max(1, columns - 2), max(1, columns - 1), columns}),
    }
    for name, ends in splits.items():
        yield from _compare(case, f"rows: {name}", _in_parts(session, case, component, ends))
    yield from _without_padding(session, case, component)


def _in_parts(session: Session, case: Case, component: Mapping[str, Any], ends: Sequence[int]) -> Arrays:
    """The columns of `case` in consecutive calls that end at `ends`; logits of all columns and the final cache."""
    inputs = case.inputs
    cache = KVCache(component, "fp32", batch=inputs["input_ids"].shape[0])
    logits, start = [], 0
    for end in ends:
        part = {
            **{name: array for name, array in inputs.items() if not name.startswith("past_key_values.")},
            **cache.inputs(),
            "input_ids": inputs["input_ids"][:, start:end],
            "attention_mask": inputs["attention_mask"][:, :end],
            "position_ids": inputs["position_ids"][:, start:end],
            "logits_positions": np.tile(np.arange(end - start), (inputs["input_ids"].shape[0], 1)),
        }
        outputs = session.run(case.component, part)
        cache.update(outputs)
        logits.append(outputs["logits"])
        start = end
    return {**outputs, "logits": np.concatenate(logits, 1)}


def _compare(case: Case, name: str, outputs: Arrays) -> Iterator[Pair]:
    """Logits, and all keys and all values as one output each: a layer more or less does not change the count."""
    used = case.inputs["attention_mask"] != 0
    logits, expected = outputs["logits"], case.outputs["logits"]
    if logits.shape == expected.shape:
        logits, expected = logits[used], expected[used]
    yield Pair(case.component, name, "logits", logits, expected)
    for kind in ("key", "value"):
        present = [port for port in case.outputs if port.startswith("present.") and port.endswith(kind)]
        actual, expected = (
            np.concatenate([arrays[port].transpose(0, 2, 1, 3)[used].ravel() for port in present]).astype(np.float32)
            for arrays in (outputs, case.outputs)
        )
        yield Pair(case.component, name, f"present.*.{kind}", actual, expected)


def _without_padding(session: Session, case: Case, component: Mapping[str, Any]) -> Iterator[Pair]:
    """The left-padded first row alone and trimmed to its tokens: batch 1, another length, the same answers."""
    used = np.flatnonzero(case.inputs["attention_mask"][0])
    inputs = {
        **{name: array[:1] for name, array in case.inputs.items()},
        **KVCache(component, "fp32", batch=1).inputs(),
        "input_ids": case.inputs["input_ids"][:1, used],
        "attention_mask": np.ones((1, len(used)), np.int64),
        "position_ids": case.inputs["position_ids"][:1, used],
        "logits_positions": np.array([[len(used) - 1]]),
    }
    outputs = session.run(case.component, inputs, ["logits"])
    expected = case.outputs["logits"][:1, used[-1] : used[-1] + 1]
    yield Pair(case.component, "rows: one row, padding removed", "logits", outputs["logits"], expected)
