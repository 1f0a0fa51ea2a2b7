"""Inputs of the odd source's decoder."""

import numpy as np

DTYPES = {"fp32": np.float32, "fp16": np.float16}
LAYERS, HEADS, HEAD_WIDTH, WIDTH, VISUAL_ROWS, VOCABULARY = 3, 6, 16, 96, 256, 150


def decoder_inputs(precision: str, batch: int, columns: int, past: int) -> dict[str, np.ndarray]:
    """Random inputs of `columns` new columns after `past` ones, one of which is masked where there is more than one."""
    rng, dtype = np.random.default_rng(7), DTYPES[precision]
    mask = np.ones((batch, past + columns), np.int64)
    mask[0, 0] = past + columns == 1
    caches = [f"past_key_values.{i}.{kind}" for i in range(LAYERS) for kind in ("key", "value")]
    return {
        "input_ids": rng.integers(0, VOCABULARY, (batch, columns)),
        "attention_mask": mask,
        "position_ids": np.tile(np.arange(past, past + columns), (batch, 1)),
        "logits_positions": np.tile(np.arange(columns), (batch, 1)),
        "visual_memory": (0.3 * rng.standard_normal((batch, VISUAL_ROWS, WIDTH))).astype(dtype),
        **{name: rng.standard_normal((batch, HEADS, past, HEAD_WIDTH)).astype(dtype) for name in caches},
    }
