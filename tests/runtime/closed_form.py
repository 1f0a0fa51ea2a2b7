"""The decoder of closed_form.h in NumPy, as a session that the Python pipeline runs, and a tokenizer of its ids."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

VOCABULARY, PIECES, LAYERS, HEADS, HEAD_DIM = 23, 21, 2, 2, 3


def entry(kind: str, max_batch: int = 4, max_seq: int = 32, chunk: int = 16, positions: int = 1) -> dict[str, Any]:
    """A decoder engine's entry in the manifest, for `max_seq` columns of past and sequence together."""
    from memvp_export.exporter.engines.profiles import make_profiles

    past = max_seq if kind == "in_place" else "past_sequence"
    names = [f"past_key_values.{layer}.{what}" for layer in range(LAYERS) for what in ("key", "value")]
    inputs = [
        *(port(name, "int64", "batch", "sequence") for name in ("input_ids", "position_ids")),
        port("attention_mask", "int64", "batch", "past_sequence + sequence"),
        port("logits_positions", "int64", "batch", "positions"),
        port("visual_memory", "float32", "batch", 2, 2),
        *(port(name, "float32", "batch", HEADS, past, HEAD_DIM) for name in names),
    ]
    grown = {"concat": "past_sequence + sequence", "delta": "sequence", "in_place": max_seq}[kind]
    outputs = [
        port("logits", "float32", "batch", "positions", VOCABULARY),
        *(
            port(name.replace("past_key_values", "present"), "float32", "batch", HEADS, grown, HEAD_DIM)
            for name in names
        ),
    ]
    ranges = {
        "batch": [1, max_batch],
        "sequence": [1, max_seq],
        "past_sequence": [0, max_seq - 1],
        "positions": [1, positions],
    }
    shapes = None if kind == "in_place" else {"input_ids": [max_batch, chunk]}
    profiles = make_profiles(inputs, ranges, max_batch=max_batch, max_seq=max_seq, max_shapes=shapes)
    return {
        "component": "decoder",
        "inputs": inputs,
        "outputs": outputs,
        "cache": {"kind": kind, "axis": 2, "layers": LAYERS, "capacity": max_seq},
        "profiles": [{"name": each.name, "shapes": each.shapes} for each in profiles],
    }


def port(name: str, dtype: str, *dims: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "dims": [*dims]}


def compute(feed: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """What the decoder gives for its inputs by name; see closed_form.h for the formula."""
    ids, mask, positions = (feed[name] for name in ("input_ids", "attention_mask", "position_ids"))
    batch, columns = ids.shape
    width = mask.shape[1]
    held = width - columns
    visual = feed["visual_memory"][:, 0, 0].astype(np.int64)
    new = (7 * ids + 3 * positions + 5 * visual[:, None]) % 61
    past = feed["past_key_values.0.key"][:, 0, :held, 0].astype(np.int64)
    keys = np.concatenate([past, new], 1)
    parts = keys * (np.arange(width) % 5 + 1) * (mask != 0)
    last = held + feed["logits_positions"]
    sums = np.stack([parts[row].cumsum()[last[row]] for row in range(batch)])
    tokens = np.arange(VOCABULARY)
    logits = (sums[..., None] * (tokens + 3) + 11 * visual[:, None, None] + tokens * tokens) % 97
    given = {"logits": logits.astype(np.float32)}
    for name, array in feed.items():
        if name.startswith("past_key_values."):
            # Every layer, head and place of a column holds its key, shifted so that none stands for another.
            shift = tagged(name)
            fresh = new[:, None, :, None] + shift
            if held:
                assert np.array_equal(array[:, :, :held], past[:, None, :, None] + shift), f"{name} lost its past"
            if kind == "in_place":
                grown = array.copy()
                grown[:, :, held:width] = fresh
            else:
                grown = np.concatenate([array, fresh], 2) if kind == "concat" else fresh
            given[name.replace("past_key_values", "present")] = np.ascontiguousarray(grown, np.float32)
    return given


def tagged(name: str) -> np.ndarray:
    """What sets the entries [1,H,1,hd] of one cache apart from those of the others; 0 in the first."""
    _, layer, what = name.split(".")
    number = 2 * int(layer) + (what == "value")
    return number + 8 * (np.arange(HEADS)[:, None, None] + HEADS * np.arange(HEAD_DIM))[None]


class ClosedFormSession:
    """A Session of `vision`, which gives what it was told, and the decoder. `calls`: new columns, past, columns asked
    and whether the cache was wanted, of each call of the decoder."""

    def __init__(self, kind: str, visual: Sequence[int]) -> None:
        self.kind, self.visual, self.calls = kind, list(visual), []

    def run(
        self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None
    ) -> dict[str, np.ndarray]:
        if component == "vision":
            rows = len(inputs["image_indicator"])
            taken, self.visual = self.visual[:rows], self.visual[rows:]
            return {"visual_memory": np.array(taken, np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)}
        columns = inputs["input_ids"].shape[1]
        past = inputs["attention_mask"].shape[1] - columns
        kept = len(outputs or ()) > 1
        self.calls.append([columns, past, inputs["logits_positions"].shape[1], int(kept)])
        given = compute(inputs, self.kind)
        return {name: given[name] for name in outputs or given}


class IdTokenizer:
    """Texts are ids with spaces between them."""

    bos, eos, pad, pieces = None, 2, 0, PIECES

    def __init__(self, maximum: int = 32) -> None:
        self.maximum = maximum

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))
