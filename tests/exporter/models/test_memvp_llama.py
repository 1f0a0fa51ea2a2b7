"""The decoder as a function of its inputs: caches, padding, positions, columns of logits, and what must move them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.models.family import Model
from memvp_export.exporter.models.memvp_llama import Config, components
from memvp_export.exporter.models.reference import TorchReference

ROWS, COLUMNS = 3, 12
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def config(model: Model) -> Config:
    assert isinstance(model.config, Config)
    return model.config


@pytest.fixture(scope="module")
def ids(config: Config) -> np.ndarray:
    return np.random.default_rng(0).integers(0, config.vocab, (ROWS, COLUMNS))


@pytest.fixture(scope="module")
def visual(config: Config) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal((ROWS, config.tower.rows, config.dim))
    return (0.2 * noise).astype(np.float32)


class Decoder:
    """Calls of the reference with everything optional but ids: full mask, positions in order, all columns' logits."""

    def __init__(self, reference: TorchReference, config: Config) -> None:
        self.reference, self.config = reference, config

    def __call__(self, ids: np.ndarray, visual: np.ndarray, past: Arrays | None = None, **inputs: Any) -> Arrays:
        batch, columns = ids.shape
        past = past or self.empty(batch)
        before = next(iter(past.values())).shape[2]
        defaults = {
            "attention_mask": np.ones((batch, before + columns), np.int64),
            "position_ids": np.tile(np.arange(before, before + columns), (batch, 1)),
            "logits_positions": np.tile(np.arange(columns), (batch, 1)),
        }
        return self.reference.run("decoder", {"input_ids": ids, "visual_memory": visual, **defaults, **past, **inputs})

    def empty(self, batch: int) -> Arrays:
        shape = (batch, self.config.heads, 0, self.config.head_dim)
        names = (f"past_key_values.{i}.{kind}" for i in range(self.config.layers) for kind in ("key", "value"))
        return {name: np.zeros(shape, np.float32) for name in names}


def present(outputs: Arrays) -> Arrays:
    """The outputs' cache as the next call's past."""
    return {name.replace("present", "past_key_values"): a for name, a in outputs.items() if name.startswith("present")}


@pytest.fixture(scope="module")
def decoder(reference: TorchReference, config: Config) -> Decoder:
    return Decoder(reference, config)


@pytest.fixture(scope="module")
def whole(decoder: Decoder, ids: np.ndarray, visual: np.ndarray) -> Arrays:
    return decoder(ids, visual)


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max())


def moved(actual: np.ndarray, expected: np.ndarray) -> bool:
    return float(np.abs(actual - expected).max()) > 1e-3 * float(np.abs(expected).max())


@pytest.mark.parametrize("ends", [[COLUMNS], [5, 6, COLUMNS], [9, 10, 11, COLUMNS], list(range(1, COLUMNS + 1))])
def test_prefill_chunks_and_steps_agree(
    decoder: Decoder, ids: np.ndarray, visual: np.ndarray, whole: Arrays, ends: Sequence[int]
) -> None:
    past, logits, start = decoder.empty(ROWS), [], 0
    for end in ends:
        outputs = decoder(ids[:, start:end], visual, past)
        past, start = present(outputs), end
        logits.append(outputs["logits"])
    assert_close(np.concatenate(logits, 1), whole["logits"])
    for name, array in present(whole).items():
        assert_close(past[name], array)


def test_the_cache_holds_what_earlier_columns_said(
    decoder: Decoder, ids: np.ndarray, visual: np.ndarray, whole: Arrays
) -> None:
    past = {name: array[:, :, :-1] for name, array in present(whole).items()}
    for name in past:
        changed = past | {name: past[name][:, :, ::-1]}
        assert moved(decoder(ids[:, -1:], visual, changed)["logits"], whole["logits"][:, -1:]), name


@pytest.mark.parametrize(
    "slots",
    [
        pytest.param(range(4, COLUMNS + 4), id="left padding"),
        pytest.param(range(COLUMNS), id="right padding"),
        pytest.param((0, 1, 4, 5, 6, 8, 9, 10, 11, 12, 14, 15), id="holes"),
    ],
)
@pytest.mark.parametrize("split", [0, 7])
def test_padding_anywhere_gives_the_bare_row(
    decoder: Decoder, ids: np.ndarray, visual: np.ndarray, whole: Arrays, slots: Sequence[int], split: int
) -> None:
    """Row 0 lies in `slots` of 16 columns, the others are full; in one call, or in two."""
    rng = np.random.default_rng(3)
    padded = rng.integers(0, decoder.config.vocab, (ROWS, 16))
    mask = np.ones((ROWS, 16), np.int64)
    mask[0] = 0
    mask[0, list(slots)], padded[0, list(slots)] = 1, ids[0]
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    past, logits = decoder.empty(ROWS), []
    for start, end in ((0, split), (split, 16)) if split else ((0, 16),):
        part = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end]}
        outputs = decoder(padded[:, start:end], visual, past, **part)
        past = present(outputs)
        logits.append(outputs["logits"])
    assert_close(np.concatenate(logits, 1)[0, list(slots)], whole["logits"][0])
    assert np.isfinite(np.concatenate(logits, 1)).all()


def test_masked_slots_of_the_past_do_not_matter(
    decoder: Decoder, ids: np.ndarray, visual: np.ndarray, whole: Arrays
) -> None:
    past = {name: array[:, :, :-1].copy() for name, array in present(whole).items()}
    mask = np.ones((ROWS, COLUMNS), np.int64)
    mask[:, 3] = 0
    before = decoder(ids[:, -1:], visual, past, attention_mask=mask)["logits"]
    for array in past.values():
        array[:, :, 3] = 1e4
    np.testing.assert_array_equal(decoder(ids[:, -1:], visual, past, attention_mask=mask)["logits"], before)
    assert moved(before, whole["logits"][:, -1:])


def test_logits_positions_select_columns(decoder: Decoder, ids: np.ndarray, visual: np.ndarray, whole: Arrays) -> None:
    chosen = np.array([[11, 0, 3, 3], [2, 5, 4, 11], [1, 1, 1, 0]])
    actual = decoder(ids, visual, logits_positions=chosen)["logits"]
    assert_close(actual, np.take_along_axis(whole["logits"], chosen[..., None], 1))
    last = decoder(ids, visual, logits_positions=np.full((ROWS, 1), COLUMNS - 1))["logits"]
    assert_close(last, whole["logits"][:, -1:])


def test_later_tokens_do_not_reach_back(decoder: Decoder, ids: np.ndarray, visual: np.ndarray, whole: Arrays) -> None:
    changed = ids.copy()
    changed[:, 6] = (changed[:, 6] + 1) % decoder.config.vocab
    logits = decoder(changed, visual)["logits"]
    assert_close(logits[:, :6], whole["logits"][:, :6])
    assert all(moved(logits[i, column], whole["logits"][i, column]) for i in range(ROWS) for column in range(6, 12))


def test_positions_count_relatively(decoder: Decoder, ids: np.ndarray, visual: np.ndarray, whole: Arrays) -> None:
    positions = np.tile(np.arange(COLUMNS), (ROWS, 1))
    assert_close(decoder(ids, visual, position_ids=positions + 17)["logits"], whole["logits"])
    assert moved(decoder(ids, visual, position_ids=positions * 2)["logits"][:, 1:], whole["logits"][:, 1:])


def test_every_layer_looks_the_image_up(decoder: Decoder, ids: np.ndarray, visual: np.ndarray, whole: Arrays) -> None:
    """Another image changes the logits of every column and the cache from the second layer on."""
    other = decoder(ids, visual[::-1])
    for i in range(ROWS - 1):
        for column in range(COLUMNS):
            assert moved(other["logits"][0, column], whole["logits"][0, column])
        assert moved(other[f"present.{i + 1}.value"][0], whole[f"present.{i + 1}.value"][0])
    np.testing.assert_array_equal(other["present.0.value"], whole["present.0.value"])
    assert_close(other["logits"][1], whole["logits"][1])


def test_the_config_survives_json_and_gives_the_same_components(config: Config) -> None:
    again = Config.from_dict(config.to_dict())
    assert again == config
    for ours, theirs in zip(components(again), components(config), strict=True):
        assert (ours.inputs, ours.outputs, ours.weights, ours.ranges) == (
            theirs.inputs,
            theirs.outputs,
            theirs.weights,
            theirs.ranges,
        )
