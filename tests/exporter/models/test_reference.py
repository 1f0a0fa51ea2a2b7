"""The reference session: float32 whatever comes in, weights kept or read again, errors that name the input."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from memvp_export.exporter.checkpoints.lazy import LazyTensor
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models.family import Model
from memvp_export.exporter.models.reference import TorchReference
from torch import Tensor


def counted(tensors: dict[str, LazyTensor], loads: Counter[str]) -> dict[str, LazyTensor]:
    def wrapped(name: str, tensor: LazyTensor) -> LazyTensor:
        def load() -> Tensor:
            loads[name] += 1
            return tensor.load()

        return replace(tensor, load=load)

    return {name: wrapped(name, tensor) for name, tensor in tensors.items()}


def picture() -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    return {"pixel_values": pixels, "image_indicator": np.ones(1, np.float32)}


def test_a_small_model_is_kept_and_a_large_one_read_again(model: Model) -> None:
    kept, streamed = Counter[str](), Counter[str]()
    small = TorchReference(model.components, counted(dict(model.weights), kept))
    large = TorchReference(model.components, counted(dict(model.weights), streamed), keep_bytes=0)
    for _ in range(2):
        ours, theirs = (session.run("vision", picture())["visual_memory"] for session in (small, large))
        np.testing.assert_array_equal(ours, theirs)
    assert set(kept) == set(model.components[0].weights)
    assert set(kept.values()) == {1} and min(streamed.values()) >= 2


def test_half_inputs_give_float32_outputs(model: Model, reference: TorchReference) -> None:
    config = model.config
    inputs: dict[str, np.ndarray] = {
        "input_ids": np.array([[5, 6]], np.int32),
        "attention_mask": np.ones((1, 2), np.int32),
        "position_ids": np.array([[0, 1]], np.int32),
        "logits_positions": np.array([[1]], np.int32),
        "visual_memory": np.ones((1, config.tower.rows, config.dim), np.float16),
    }
    for i in range(config.layers):
        for kind in ("key", "value"):
            inputs[f"past_key_values.{i}.{kind}"] = np.zeros((1, config.heads, 0, config.head_dim), np.float16)
    outputs = reference.run("decoder", inputs)
    assert {array.dtype.name for array in outputs.values()} == {"float32"}
    assert list(outputs) == [port.name for port in model.components[1].outputs]
    assert list(reference.run("decoder", inputs, ["present.1.key"])) == ["present.1.key"]
    alone = reference.run("decoder", inputs, ["logits"])
    assert list(alone) == ["logits"]
    np.testing.assert_array_equal(alone["logits"], outputs["logits"])


def test_a_missing_input_is_named(reference: TorchReference) -> None:
    with pytest.raises(InputError, match="vision needs the inputs image_indicator"):
        reference.run("vision", {"pixel_values": picture()["pixel_values"]})
