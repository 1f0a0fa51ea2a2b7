"""Golden cases run again through another session: whole, without padding, and a decoder also in chunks and in steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..cache import is_past, is_present
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


Way = Callable[[Session], Iterator[Pair]]


def replay(session: Session, case: Case, component: Mapping[str, Any]) -> Iterator[Pair]:
    """Run `case` in every way its component (as the manifest describes it) allows; outputs beside the golden ones."""
    for _, way in ways(case, component):
        yield from way(session)


def ways(case: Case, component: Mapping[str, Any]) -> Iterator[tuple[str, Way]]:
    """The ways of `replay` one by one, with a name: an engine may be built for the shapes of some only."""
    # A decoder that was built for a single pass has no caches, but its reference had.
    cached = any(map(is_past, case.inputs))
    if case.name != "rows" or not (cached or component["cache"]):
        only = ["logits"] if component["cache"] else list(case.outputs)
        yield case.name, partial(_at_once, case=case, only=only)
        if case.name == "rows" and any(map(is_present, case.outputs)):
            yield "rows: one row, padding removed", partial(_text_alone, case=case)
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
        if not is_present(name):
            yield Pair(case.component, case.name, name, outputs[name], case.outputs[name])
    if any(map(is_present, only)):
        yield from cache_pairs(case, case.name, outputs, used_columns(case.inputs))


def _single_pass(session: Session, case: Case) -> Iterator[Pair]:
    outputs = session.run(case.component, case.inputs, ["logits"])
    yield _logits(case, "rows: single pass", outputs["logits"])


def _in_parts(
    session: Session, case: Case, component: Mapping[str, Any], name: str, ends: Sequence[int]
) -> Iterator[Pair]:
    inputs = case.inputs
    rows = inputs["input_ids"].shape[0]
    cache = KVCache(component, "fp32", batch=rows)
    logits, start = [], 0
    for end in ends:
        columns = {
            "input_ids": inputs["input_ids"][:, start:end],
            "attention_mask": inputs.get("attention_mask", inputs["input_ids"])[:, :end],
            "position_ids": inputs.get("position_ids", inputs["input_ids"])[:, start:end],
            "logits_positions": np.tile(np.arange(end - start), (rows, 1)),
        }
        part = inputs | {name: array for name, array in columns.items() if name in inputs} | cache.inputs()
        outputs = session.run(case.component, part)
        cache.update(outputs, end - start)
        logits.append(outputs["logits"])
        start = end
    whole = dict(zip(cache.present, cache.held().values(), strict=True))
    yield from _compare(case, name, {**whole, "logits": np.concatenate(logits, 1)})


def _compare(case: Case, name: str, outputs: Arrays) -> Iterator[Pair]:
    yield _logits(case, name, outputs["logits"])
    yield from cache_pairs(case, name, outputs, used_columns(case.inputs))


def used_columns(inputs: Arrays) -> np.ndarray:
    """The new columns [B,T] that are no padding, of those that have a mask."""
    columns = inputs["input_ids"].shape[1]
    return np.asarray(inputs.get("attention_mask", np.ones_like(inputs["input_ids"]))[:, -columns:] != 0)


def _logits(case: Case, name: str, logits: np.ndarray) -> Pair:
    used, expected = used_columns(case.inputs), case.outputs["logits"]
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
    """The left-padded first row alone and trimmed to its tokens: batch 1, another length, the same answers. Of a
    decoder without padding of its own, that of what it reads is removed."""
    row = {name: array[:1] for name, array in case.inputs.items()}
    empty = KVCache(component, "fp32", batch=1).inputs()
    columns = np.flatnonzero(used_columns(case.inputs)[0])
    trimmed = {
        "input_ids": row["input_ids"][:, columns],
        "attention_mask": np.ones((1, len(columns)), np.int64),
        "position_ids": row.get("position_ids", row["input_ids"])[:, columns],
        "logits_positions": np.array([[len(columns) - 1]]),
    }
    if "encoder_attention_mask" in row:
        read = np.flatnonzero(row["encoder_attention_mask"][0])
        trimmed["encoder_attention_mask"] = np.ones((1, len(read)), np.int64)
        trimmed |= {name: row[name][:, :, read] for name in row if is_past(name) and name not in empty}
    inputs = row | {name: array for name, array in trimmed.items() if name in row} | empty
    outputs = session.run(case.component, inputs, ["logits"])
    asked = slice(columns[-1], columns[-1] + 1) if "logits_positions" in row else slice(None)
    expected = case.outputs["logits"][:1, asked]
    yield Pair(case.component, "rows: one row, padding removed", "logits", outputs["logits"], expected)


def _text_alone(session: Session, case: Case) -> Iterator[Pair]:
    """The right-padded second row of an encoder alone and trimmed to its tokens, whose places are the same then."""
    name, output = "rows: one row, padding removed", "last_hidden_state"
    columns = np.flatnonzero(used_columns(case.inputs)[1])
    inputs = {port: array[1:2] for port, array in case.inputs.items()}
    inputs |= {port: inputs[port][:, columns] for port in ("input_ids", "attention_mask")}
    outputs = session.run(case.component, inputs, [output])
    yield Pair(case.component, name, output, outputs[output], case.outputs[output][1:2, columns])
