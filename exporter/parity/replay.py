"""Golden cases run again through another session: whole, and a decoder also in chunks, in steps and without padding."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..kv_cache import KVCache, is_past, is_present
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


Way = Callable[[Session], Iterator[Pair]]


def replay(session: Session, case: Case, component: Mapping[str, Any]) -> Iterator[Pair]:
    """Run `case` in every way its component (as the manifest describes it) allows; outputs beside the golden ones."""
    for _, way in ways(case, component):
        yield from way(session)


def ways(case: Case, component: Mapping[str, Any]) -> Iterator[tuple[str, Way]]:
    """The ways of `replay` one by one, with a name: an engine may be built for the shapes of some only."""
    cached = any(map(is_present, case.outputs))
    if case.name != "rows" or not (cached or component["cache"]):
        only = ["logits"] if component["cache"] else list(case.outputs)
        yield case.name, partial(_at_once, case=case, only=only)
        return
    columns = case.inputs["input_ids"].shape[1]
    if not component["cache"]:
        yield "rows: single pass", partial(_single_pass, case=case)
        return
    third = -(-columns // 3)
    splits = {
        "prefill": [columns],
        "chunks": sorted({third, min(2 * third, columns), columns}),
        "prefill, then steps": sorted({max(1, columns - 2), max(1, columns - 1), columns}),
    }
    for name, ends in splits.items():
        yield f"rows: {name}", partial(_in_parts, case=case, component=component, name=f"rows: {name}", ends=ends)
    yield "rows: one row, padding removed", partial(_without_padding, case=case, component=component)


def _at_once(session: Session, case: Case, only: list[str]) -> Iterator[Pair]:
    outputs = session.run(case.component, case.inputs, only)
    for name in only:
        yield Pair(case.component, case.name, name, outputs[name], case.outputs[name])


def _single_pass(session: Session, case: Case) -> Iterator[Pair]:
    outputs = session.run(case.component, case.inputs, ["logits"])
    yield _logits(case, "rows: single pass", outputs["logits"])


def _in_parts(
    session: Session, case: Case, component: Mapping[str, Any], name: str, ends: Sequence[int]
) -> Iterator[Pair]:
    inputs = case.inputs
    cache = KVCache(component, "fp32", batch=inputs["input_ids"].shape[0])
    logits, start = [], 0
    for end in ends:
        part = {
            **{name: array for name, array in inputs.items() if not is_past(name)},
            **cache.inputs(),
            "input_ids": inputs["input_ids"][:, start:end],
            "attention_mask": inputs["attention_mask"][:, :end],
            "position_ids": inputs["position_ids"][:, start:end],
            "logits_positions": np.tile(np.arange(end - start), (inputs["input_ids"].shape[0], 1)),
        }
        outputs = session.run(case.component, part)
        cache.update(outputs, end - start)
        logits.append(outputs["logits"])
        start = end
    whole = dict(zip(cache.present, cache.held().values(), strict=True))
    yield from _compare(case, name, {**whole, "logits": np.concatenate(logits, 1)})


def _compare(case: Case, name: str, outputs: Arrays) -> Iterator[Pair]:
    yield _logits(case, name, outputs["logits"])
    yield from cache_pairs(case, name, outputs, case.inputs["attention_mask"] != 0)


def _logits(case: Case, name: str, logits: np.ndarray) -> Pair:
    used, expected = case.inputs["attention_mask"] != 0, case.outputs["logits"]
    if logits.shape == expected.shape:
        logits, expected = logits[used], expected[used]
    return Pair(case.component, name, "logits", logits, expected)


def cache_pairs(case: Case, name: str, outputs: Arrays, used: np.ndarray) -> Iterator[Pair]:
    """All keys and all values [B,H,columns,hd] of the used columns [B,columns] as one output each: a layer more or less
    does not change the count."""
    for kind in ("key", "value"):
        present = [port for port in case.outputs if is_present(port) and port.endswith(kind)]
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
