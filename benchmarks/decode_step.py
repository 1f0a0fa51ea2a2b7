"""One decode step, ONNX Runtime beside the PyTorch reference, in turns in one process.

    python benchmarks/decode_step.py [--dim 1024 --layers 8 --past 256 --steps 40]

float32, batch 1, all weights in memory on both sides, the same number of threads. Writes
benchmarks/results/decode-step.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from memvp_export import Bundle, export_onnx, read_source
from memvp_export.examples.random_source import Sizes, write_source
from memvp_export.exporter.machine import describe
from memvp_export.exporter.models.family import load
from memvp_export.exporter.models.reference import TorchReference
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.metrics import distance
from memvp_export.exporter.session import Arrays, Session

RESULTS = Path(__file__).parent / "results"


def decode_inputs(bundle: Bundle, past: int) -> Arrays:
    """One new column after `past` cached ones, random values."""
    random = np.random.default_rng(0)
    made: Arrays = {
        "input_ids": np.array([[5]]),
        "attention_mask": np.ones((1, past + 1), np.int64),
        "position_ids": np.array([[past]]),
        "logits_positions": np.array([[0]]),
    }
    for port in bundle.manifest["components"]["decoder"]["inputs"]:
        if port["name"] not in made:
            dims = [{"batch": 1, "past_sequence": past}.get(dim, dim) for dim in port["dims"]]
            made[port["name"]] = random.standard_normal(dims).astype(np.float32)
    return made


def seconds_of(session: Session, inputs: Arrays) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    session.run("decoder", inputs)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("dim", 1024), ("layers", 8), ("past", 256), ("steps", 40)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    sizes = Sizes(arguments.dim, arguments.layers, arguments.dim // 64, 256, 1000, 320, 128, 64, 2, 14, 16, 12)
    with tempfile.TemporaryDirectory() as folder:
        source = read_source(write_source(Path(folder) / "source", sizes))
        bundle = export_onnx(source, Path(folder) / "bundle", "fp32", golden=False)
        model = load(source)
        reference = TorchReference(model.components, model.weights, keep_bytes=1 << 40)
        tested = OnnxSession(bundle, threads=torch.get_num_threads())
        inputs = decode_inputs(bundle, arguments.past)
        outputs = [session.run("decoder", inputs, ["logits"])["logits"] for session in (tested, reference)]
        times = [(seconds_of(tested, inputs), seconds_of(reference, inputs)) for _ in range(arguments.steps + 5)][5:]
    found = {
        "machine": describe(),
        "setting": vars(arguments) | {"threads": torch.get_num_threads(), "batch": 1, "precision": "fp32"},
        "relative_l2": distance(*outputs).relative_l2,
        "onnxruntime_ms": 1e3 * statistics.median(a for a, _ in times),
        "pytorch_ms": 1e3 * statistics.median(b for _, b in times),
        "ratio": statistics.median(b / a for a, b in times),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "decode-step.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
