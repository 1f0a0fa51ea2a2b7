"""The decoder of closed_form.h in NumPy, as a session that the Python pipeline runs, and a tokenizer of its ids."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

VOCABULARY, PIECES, LAYERS, HEADS, HEAD_DIM = 23, 21, 2, 2, 3


def entry(kind: str, max_batch: int = 4, max_seq: int = 32, chunk: int = 16, positions: int = 1) -> dict[str, Any]:
    """A decoder engine's entry in the manifest, for `max_seq` columns of past and sequence together."""
    names = _cached("past_key_values.{}.")
    inputs = [
        *(port(name, "int64", "batch", "sequence") for name in ("input_ids", "position_ids")),
        port("attention_mask", "int64", "batch", "past_sequence + sequence"),
        port("logits_positions", "int64", "batch", "positions"),
        port("visual_memory", "float32", "batch", 2, 2),
    ]
    logits = port("logits", "float32", "batch", "positions", VOCABULARY)
    shapes = None if kind == "in_place" else {"input_ids": [max_batch, chunk]}
    return _decoder(kind, inputs, logits, names, max_batch, max_seq, {"positions": [1, positions]}, shapes)


def behind_entry(kind: str, max_batch: int = 4, max_seq: int = 32, max_read: int = 9) -> dict[str, Any]:
    """As `entry`, of a decoder behind an encoder that reads texts of up to `max_read` columns."""
    inputs = [
        port("input_ids", "int64", "batch", "sequence"),
        port("encoder_attention_mask", "int64", "batch", "encoder_sequence"),
        port("visual_memory", "float32", "batch", 2, 2),
        *_caches(_cached("past_key_values.{}.encoder."), "encoder_sequence"),
    ]
    logits = port("logits", "float32", "batch", "sequence", VOCABULARY)
    names = _cached("past_key_values.{}.decoder.")
    return _decoder(kind, inputs, logits, names, max_batch, max_seq, {"encoder_sequence": [1, max_read]}, None)


def encoder_entry(max_batch: int = 4, max_read: int = 9) -> dict[str, Any]:
    """The entry of the encoder's engine."""
    inputs = [port(name, "int64", "batch", "encoder_sequence") for name in ("input_ids", "attention_mask")]
    inputs.append(port("visual_memory", "float32", "batch", 2, 2))
    outputs = [
        port("last_hidden_state", "float32", "batch", "encoder_sequence", 2),
        *_caches(_cached("present.{}.encoder."), "encoder_sequence"),
    ]
    ranges = {"batch": [1, max_batch], "encoder_sequence": [1, max_read]}
    return _entry("encoder", inputs, outputs, None, ranges, max_batch=max_batch)


def _decoder(
    kind: str,
    inputs: list[dict[str, Any]],
    logits: dict[str, Any],
    names: list[str],
    max_batch: int,
    max_seq: int,
    others: Mapping[str, list[int]],
    shapes: Any,
) -> dict[str, Any]:
    past = max_seq if kind == "in_place" else "past_sequence"
    grown = {"concat": "past_sequence + sequence", "delta": "sequence", "in_place": max_seq}[kind]
    outputs = [logits, *_caches([name.replace("past_key_values", "present") for name in names], grown)]
    ranges = {"batch": [1, max_batch], "sequence": [1, max_seq], "past_sequence": [0, max_seq - 1], **others}
    cache = {"kind": kind, "axis": 2, "layers": LAYERS, "capacity": max_seq}
    sizes = {"max_batch": max_batch, "max_seq": max_seq, "max_shapes": shapes}
    return _entry("decoder", [*inputs, *_caches(names, past)], outputs, cache, ranges, **sizes)


def _entry(
    component: str,
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    cache: dict[str, Any] | None,
    ranges: Mapping[str, list[int]],
    **sizes: Any,
) -> dict[str, Any]:
    from memvp_export.exporter.engines.profiles import make_profiles

    profiles = [{"name": each.name, "shapes": each.shapes} for each in make_profiles(inputs, ranges, **sizes)]
    return {"component": component, "inputs": inputs, "outputs": outputs, "cache": cache, "profiles": profiles}


def _cached(stem: str) -> list[str]:
    return [f"{stem.format(layer)}{what}" for layer in range(LAYERS) for what in ("key", "value")]


def _caches(names: Sequence[str], columns: int | str) -> list[dict[str, Any]]:
    return [port(name, "float32", "batch", HEADS, columns, HEAD_DIM) for name in names]


def port(name: str, dtype: str, *dims: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "dims": [*dims]}


def compute(feed: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """What the decoder gives for its inputs by name, alone or behind an encoder; see closed_form.h for the formula."""
    ids, behind = feed["input_ids"], "encoder_attention_mask" in feed
    batch, columns = ids.shape
    own = "decoder.key" if behind else "key"
    width = feed[f"past_key_values.0.{own}"].shape[2] + columns if behind else feed["attention_mask"].shape[1]
    held = width - columns
    mask = np.ones((batch, width), np.int64) if behind else feed["attention_mask"]
    positions = np.arange(held, width) if behind else feed["position_ids"]
    visual = _visual(feed)
    new = (7 * ids + 3 * positions + 5 * visual[:, None]) % 61
    past = feed[f"past_key_values.0.{own}"][:, 0, :held, 0].astype(np.int64)
    keys = np.concatenate([past, new], 1)
    parts = keys * (np.arange(width) % 5 + 1) * (mask != 0)
    last = held + (np.tile(np.arange(columns), (batch, 1)) if behind else feed["logits_positions"])
    sums = np.stack([parts[row].cumsum()[last[row]] for row in range(batch)])
    if behind:
        sums += (_left(feed) * feed["encoder_attention_mask"]).sum(1)[:, None]
    tokens = np.arange(VOCABULARY)
    logits = (sums[..., None] * (tokens + 3) + 11 * visual[:, None, None] + tokens * tokens) % 97
    given = {"logits": logits.astype(np.float32) / np.float32(8 if behind else 1)}
    for name, array in feed.items():
        if name.startswith("past_key_values.") and ".encoder." not in name:
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


def compute_encoder(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the encoder gives for its inputs by name."""
    ids, visual = feed["input_ids"], _visual(feed)
    keys = (ids * (np.arange(ids.shape[1]) + 1) + 5 * visual[:, None]) % 61
    given = {"last_hidden_state": np.zeros((*ids.shape, 2), np.float32)}
    for name in _cached("present.{}.encoder."):
        given[name] = (keys[:, None, :, None] + tagged(name)).astype(np.float32)
    return given


def _visual(feed: Mapping[str, np.ndarray]) -> np.ndarray:
    """What each row is about; 0 of a component without the memory."""
    if "visual_memory" not in feed:
        return np.zeros(len(feed["input_ids"]), np.int64)
    return feed["visual_memory"][:, 0, 0].astype(np.int64)


def _left(feed: Mapping[str, np.ndarray]) -> np.ndarray:
    """What each column of the texts left, [B,S]; every cache of the encoder has it."""
    left = {name: array.astype(np.int64) - tagged(name) for name, array in feed.items() if ".encoder." in name}
    first = next(iter(left.values()))
    assert len(left) == 2 * LAYERS and all(np.array_equal(array, first) for array in left.values())
    assert (first == first[:, :1, :, :1]).all()
    return first[:, 0, :, 0]


def tagged(name: str) -> np.ndarray:
    """What sets the entries [1,H,1,hd] of one cache apart from those of the others; 0 in the first."""
    _, layer, *side, what = name.split(".")
    number = 2 * int(layer) + (what == "value") + 2 * LAYERS * (side == ["encoder"])
    return number + 8 * (np.arange(HEADS)[:, None, None] + HEADS * np.arange(HEAD_DIM))[None]


class ClosedFormSession:
    """A Session of `vision`, which gives what it was told, and the decoder, alone or behind the encoder. `calls`: new
    columns, past, columns asked and whether the cache was wanted, of each call of the decoder."""

    def __init__(self, kind: str, visual: Sequence[int]) -> None:
        self.kind, self.visual, self.calls = kind, list(visual), []

    def run(
        self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None
    ) -> dict[str, np.ndarray]:
        if component == "vision":
            rows = len(next(iter(inputs.values())))
            taken, self.visual = self.visual[:rows], self.visual[rows:]
            return {"visual_memory": np.array(taken, np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)}
        if component == "encoder":
            given = compute_encoder(inputs)
        else:
            given = compute(inputs, self.kind)
            columns = inputs["input_ids"].shape[1]
            behind = "encoder_attention_mask" in inputs
            past = inputs["past_key_values.0.decoder.key"].shape[2] if behind else -columns
            past += 0 if behind else inputs["attention_mask"].shape[1]
            self.calls.append([columns, past, given["logits"].shape[1], int(len(outputs or ()) > 1)])
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
