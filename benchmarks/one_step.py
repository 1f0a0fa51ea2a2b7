"""A prefill and one decode step of a large bundle in ONNX Runtime, weights mapped, against the streamed reference.

python benchmarks/one_step.py SOURCE BUNDLE      (prints JSON)
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from memvp_export import Bundle, read_source
from memvp_export.exporter.kv_cache import KVCache
from memvp_export.exporter.models.family import load
from memvp_export.exporter.models.reference import TorchReference
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.metrics import distance
from memvp_export.exporter.session import Session

PROMPT = [[1, 5, 7, 11, 13, 17]]


def step(session: Session, bundle: Bundle, visual: np.ndarray) -> tuple[np.ndarray, float]:
    """Logits after a prefill and one step, and the seconds the step took."""
    cache = KVCache(bundle.manifest["components"]["decoder"], "fp32", batch=1)
    ids = np.array(PROMPT)
    for part in (ids[:, :-1], ids[:, -1:]):
        columns = part.shape[1]
        total = cache.length + columns
        inputs = {
            "input_ids": part,
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(cache.length, total)[None],
            "logits_positions": np.array([[columns - 1]]),
            "visual_memory": visual,
            **cache.inputs(),
        }
        start = time.perf_counter()
        outputs = session.run("decoder", inputs)
        seconds = time.perf_counter() - start
        cache.update({name: array.astype(np.float32) for name, array in outputs.items()}, columns)
    return outputs["logits"], seconds


def main() -> None:
    """Compare and print."""
    source, bundle = read_source(Path(sys.argv[1])), Bundle.open(sys.argv[2])
    tested = OnnxSession(bundle, optimize=False)
    size = bundle.manifest["preprocessing"]["height"]
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    looked = tested.run("vision", {"pixel_values": pixels, "image_indicator": np.ones(1, np.float32)})
    visual = looked["visual_memory"].astype(np.float32)
    logits, seconds = step(tested, bundle, visual)
    del tested
    model = load(source)
    expected, reference_seconds = step(TorchReference(model.components, model.weights), bundle, visual)
    found = distance(logits, expected)
    print(
        json.dumps(
            {
                "relative_l2": found.relative_l2,
                "cosine": found.cosine,
                "same_token": bool(logits.argmax() == expected.argmax()),
                "onnxruntime_step_seconds": seconds,
                "reference_step_seconds": reference_seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
