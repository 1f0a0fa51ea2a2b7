"""How many answers of a demo model survive each calibration: accuracy on held-out questions, beside float32.

python benchmarks/calibrate_accuracy.py shapes|shapes_vilt [--questions 4000] [--only int8/mse/smooth ...] [--rest fp32]

Calibrates on questions of the training split, and asks questions of the held-out split, each about a scene of its own.
Prints a Markdown table: accuracy with its 95 % interval (Wilson), the difference from float32 on the same questions
with its 95 % interval, share of answers that are the same, and on part of the questions KL and top-1 of the logits.
"""

import argparse
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.damage import damage
from memvp_export.calibration.each_component import EachComponent
from memvp_export.calibration.tape import Tape
from memvp_export.examples.shapes import files
from memvp_export.examples.shapes.questions import question
from memvp_export.examples.shapes.scenes import Split, draw
from memvp_export.examples.shapes_vilt import save
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.data import Answer, Request
from memvp_export.exporter.export import export_onnx
from memvp_export.exporter.judging import correct
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.intervals import paired, wilson
from memvp_export.exporter.pipelines import pipeline_from
from memvp_export.exporter.session import Session

MODELS = {"shapes": files.MODEL, "shapes_vilt": save.MODEL}
CALIBRATION, CALIBRATION_SEED, HELD_OUT_SEED, TAPED = 256, 7, 0, 512
BATCH = 64
METHODS, WEIGHTS = ("max", "percentile", "mse"), ("max", "mse")
# Mode, method, SmoothQuant.
RUNS = (
    *((mode, method, smooth) for mode in ("int8", "fp8") for method in METHODS for smooth in (False, True)),
    *(
        (mode, method, smooth)
        for mode in ("int8-weights", "int4-weights")
        for method in WEIGHTS
        for smooth in (False, True)
    ),
)


@dataclass(frozen=True)
class Asked:
    """What a model answered, and its logits on the first questions."""

    answers: list[Answer]
    right: list[bool]


def draw_questions(folder: Path, split: Split, seed: int, count: int) -> list[Request]:
    """Questions with their answers, each about a picture of its own in `folder`."""
    folder.mkdir()
    requests = []
    for index in range(count):
        scene, one = question(split, seed, index)
        path = folder / f"{index}.png"
        draw(scene).save(path, compress_level=1)
        requests.append(Request(str(index), one.text, path, answer=one.answer))
    return requests


def session_of(bundle: Bundle, precision: str) -> Session:
    """Without optimizations, which would compute in integers instead of as the graph says."""
    graphs = {name: bundle.graph(name, precision) for name in bundle.manifest["components"]}
    return EachComponent(
        {n: OnnxSession({n: path}, "fp32", optimize=precision == "fp32") for n, path in graphs.items()}
    )


def ask(bundle: Bundle, session: Session, precision: str, requests: list[Request]) -> Asked:
    """All questions, in batches."""
    pipeline = pipeline_from(session, bundle.manifest, bundle.root, precision)
    answers = pipeline.answer(requests, replace(pipeline.defaults, batch=BATCH))
    return Asked(answers, [bool(correct(r, a)) for r, a in zip(requests, answers, strict=True)])


def main() -> None:
    """Export, calibrate in every way, ask, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--questions", type=int, default=4000)
    parser.add_argument("--rest", default="fp32", choices=("fp32", "fp16"))
    parser.add_argument("--only", nargs="*", default=[], help="such as int8/mse/smooth or fp8/max/plain")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        bundle = export_onnx(read_source(MODELS[options.model]), Path(work) / "bundle", "fp32", golden=False)
        training = draw_questions(Path(work) / "training", "train", CALIBRATION_SEED, CALIBRATION)
        asked = draw_questions(Path(work) / "asked", "held-out", HELD_OUT_SEED, options.questions)
        plain = session_of(bundle, "fp32")
        tape = Tape(plain)
        ask(bundle, tape, "fp32", asked[:TAPED])
        tape.close()
        before = ask(bundle, plain, "fp32", asked)
        low, high = wilson(sum(before.right), len(asked))
        print("| mode | method | SmoothQuant | accuracy | 95 % | difference | same answers | KL | top-1 | file |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        print(
            f"| fp32 | | | {sum(before.right) / len(asked):.2%} | {low:.2%} to {high:.2%} | | | | | 100 % |", flush=True
        )
        for mode, method, smooth in RUNS:
            if options.only and f"{mode}/{method}/{'smooth' if smooth else 'plain'}" not in options.only:
                continue
            copy = Path(work) / "copy"
            shutil.copytree(bundle.root, copy)
            found = calibrate(copy, training, mode, method, smooth, rest=options.rest, sensitivity=False)
            quantized = Bundle.open(copy)
            session = session_of(quantized, mode)
            after = ask(quantized, session, options.rest, asked)
            difference, half = paired(before.right, after.right)
            same = sum(a.ids == b.ids for a, b in zip(before.answers, after.answers, strict=True)) / len(asked)
            far = damage(tape.replay(session))
            share = sum(s[mode] for s in found.sizes.values()) / sum(s["rest"] for s in found.sizes.values())
            low, high = wilson(sum(after.right), len(asked))
            print(
                f"| {mode} | {method} | {'yes' if smooth else 'no'} | {sum(after.right) / len(asked):.2%} | "
                f"{low:.2%} to {high:.2%} | {100 * difference:+.2f} ± {100 * half:.2f} | {same:.2%} | {far.kl:.1e} | "
                f"{far.top1:.2%} | {share:.0%} |",
                flush=True,
            )
            shutil.rmtree(copy)


if __name__ == "__main__":
    main()
