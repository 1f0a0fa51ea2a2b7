"""Fresh inputs for every component of a model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from memvp_export.exporter.models.bart import BartConfig
from memvp_export.exporter.models.memvp_bart import Config
from memvp_export.exporter.models.memvp_encoder_decoder import MemoryConfig, components
from memvp_export.exporter.parity.anew import random_cases
from memvp_export.exporter.session import Arrays

TEXT, WRITTEN, ROWS = 20, 50, 4
HOST = BartConfig(
    dim=8, encoder_layers=1, decoder_layers=1, encoder_heads=2, heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8,
    vocab=31, positions=60, word_scale=1.0, activation="gelu",
)  # fmt: skip
MEMORY = MemoryConfig(2, 3, None, 2, 2, 1.0, 0.01, "both")
PARTS = components(Config(HOST, MEMORY, TEXT, WRITTEN, ROWS))


class Zeros:
    """Answers everything with zeros of the right shape."""

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        part = next(part for part in PARTS if part.name == component)
        sizes: dict[Any, int] = {}
        for port in part.inputs:
            sizes |= zip(port.dims, inputs[port.name].shape, strict=True)
        return {
            port.name: np.zeros([sizes.get(dim, dim) for dim in port.dims], np.float32)
            for port in part.outputs
            if outputs is None or port.name in outputs
        }


def test_a_decoder_is_seen_at_its_own_length_and_not_at_the_encoder_s() -> None:
    shapes: dict[str, list[tuple[int, ...]]] = {"encoder": [], "decoder": []}
    for case in random_cases(Zeros(), PARTS):
        if case.component in shapes:
            shapes[case.component].append(case.inputs["input_ids"].shape)
            assert f"batch {len(case.inputs['input_ids'])}" in case.name
    assert shapes == {
        "encoder": [(1, 1), (ROWS, 5), (2, TEXT)],
        "decoder": [(1, 1), (ROWS, 5), (2, WRITTEN)],
    }
