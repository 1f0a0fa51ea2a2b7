"""This project's INT8 beside that of onnxruntime.quantization and of NVIDIA's ModelOpt: on the same model, layers,
calibration calls and questions.

python benchmarks/calibrate_crosscheck.py shapes|shapes_vilt [--questions 1000]

Calibrates a demo model on questions of the training split. The others get the very calls that those questions make, the
layers that `calibrate` chose, and the settings that TensorRT needs (symmetric, one scale an output, no output
quantized). Of quantize_static only MinMax is asked: its histograms take calls of one shape alone, and texts have many
lengths. ModelOpt is no dependency of this project; where it is not installed, its lines are left out. Prints a Markdown
table: accuracy on held-out questions with its 95 % interval, the difference from float32 on the same questions, and
relative L2, KL and top-1 of the logits on part of them.
"""

import argparse
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from calibrate_accuracy import (
    CALIBRATION,
    CALIBRATION_SEED,
    HELD_OUT_SEED,
    MODELS,
    TAPED,
    Asked,
    ask,
    draw_questions,
    session_of,
)
from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.damage import damage
from memvp_export.calibration.each_component import EachComponent
from memvp_export.calibration.samples import open_samples
from memvp_export.calibration.tape import Tape
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.data import Request
from memvp_export.exporter.export import export_onnx
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.intervals import paired, wilson
from memvp_export.exporter.session import Arrays, Session
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

OWN = (("max", False), ("percentile", False), ("mse", False), ("mse", True))
OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": False,
    "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
}


class Recorder:
    """A session that keeps the inputs of every call."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.calls: dict[str, list[Arrays]] = {}

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        """See Session.run."""
        self.calls.setdefault(component, []).append(dict(inputs))
        return self._session.run(component, inputs, outputs)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Recorded calls, as the others take them."""

    def __init__(self, calls: list[Arrays]) -> None:
        self._calls = calls
        self.rewind()

    def get_next(self) -> Arrays | None:
        """The next call, None at the end."""
        return next(self._left, None)

    def rewind(self) -> None:
        """Begin anew."""
        self._left: Iterator[Arrays] = iter(self._calls)

    def get_first(self) -> Arrays:
        """The first call; ModelOpt looks at it."""
        return self._calls[0]


# Writes a graph, quantized, to a path: after recorded calls, some of its layers.
Quantize = Callable[[Path, Path, list[Arrays], list[str]], None]


def by_onnxruntime(source: Path, target: Path, calls: list[Arrays], layers: list[str]) -> None:
    """By quantize_static."""
    quantize_static(
        str(source), str(target), Reader(calls),
        quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        per_channel=True, op_types_to_quantize=["MatMul", "Gemm"], nodes_to_quantize=layers,
        calibrate_method=CalibrationMethod.MinMax, extra_options=OPTIONS,
    )  # fmt: skip


def by_modelopt(method: str) -> Quantize:
    """By NVIDIA's ModelOpt."""

    def quantize(source: Path, target: Path, calls: list[Arrays], layers: list[str]) -> None:
        from modelopt.onnx.quantization import quantize as quantize_onnx

        quantize_onnx(
            str(source), "int8", calibration_data_reader=Reader(calls), calibration_method=method,
            calibration_eps=["cpu"], op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=[f"^{re.escape(name)}$" for name in layers], high_precision_dtype="fp32",
            output_path=str(target), log_level="ERROR",
        )  # fmt: skip

    return quantize


def peer_session(
    bundle: Bundle, calls: Mapping[str, list[Arrays]], layers: Mapping[str, list[str]], folder: Path, how: Quantize
) -> Session:
    """The bundle's graphs, quantized by another tool."""
    folder.mkdir()
    sessions: dict[str, Session] = {}
    for name in bundle.manifest["components"]:
        path = folder / f"{name}.onnx"
        how(bundle.graph(name), path, calls[name], layers[name])
        sessions[name] = OnnxSession({name: path}, "fp32", optimize=False)
    return EachComponent(sessions)


def peers() -> Iterator[tuple[str, Quantize]]:
    """The others by the title of their line."""
    yield "quantize_static, MinMax", by_onnxruntime
    if find_spec("modelopt"):
        for method in ("max", "entropy"):
            yield f"ModelOpt, {method}", by_modelopt(method)


def show(title: str, before: Asked, after: Asked, tape: Tape, session: Session) -> None:
    """One line of the table."""
    right, total = sum(after.right), len(after.right)
    low, high = wilson(right, total)
    difference, half = paired(before.right, after.right)
    far = damage(tape.replay(session))
    print(
        f"| {title} | {right / total:.2%} | {low:.2%} to {high:.2%} | {100 * difference:+.2f} ± {100 * half:.2f} | "
        f"{far.relative_l2:.1e} | {far.kl:.1e} | {far.top1:.2%} |",
        flush=True,
    )


def main() -> None:
    """Export, calibrate in each way, ask, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--questions", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        bundle = export_onnx(read_source(MODELS[options.model]), root / "bundle", "fp32", golden=False)
        training: list[Request] = draw_questions(root / "training", "train", CALIBRATION_SEED, CALIBRATION)
        asked = draw_questions(root / "asked", "held-out", HELD_OUT_SEED, options.questions)
        plain = session_of(bundle, "fp32")
        recorder, tape = Recorder(plain), Tape(plain)
        for _ in open_samples(bundle, training, None, 0).play(recorder, 0):
            pass
        ask(bundle, tape, "fp32", asked[:TAPED])
        tape.close()
        before = ask(bundle, plain, "fp32", asked)
        print("| int8 by | accuracy | 95 % | difference | relative L2 | KL | top-1 |\n|---|---|---|---|---|---|---|")
        layers: dict[str, list[str]] = {}
        for method, smooth in OWN:
            copy = root / "copy"
            shutil.copytree(bundle.root, copy)
            found = calibrate(copy, training, "int8", method, smooth, rest="fp32", sensitivity=False)
            quantized = Bundle.open(copy)
            session = session_of(quantized, "int8")
            title = f"calibrate, {method}{', SmoothQuant' if smooth else ''}"
            show(title, before, ask(quantized, session, "fp32", asked), tape, session)
            for name in bundle.manifest["components"]:
                layers[name] = [row.layer for row in found.layers if row.component == name and row.reason is None]
            shutil.rmtree(copy)
        for title, how in peers():
            session = peer_session(bundle, recorder.calls, layers, root / title, how)
            show(title, before, ask(bundle, session, "fp32", asked), tape, session)


if __name__ == "__main__":
    main()
