"""Peak memory of calibration as samples grow: it should not.

python benchmarks/calibrate_memory.py shapes|vilt-base [--samples 32 512 4096] [--rank]

shapes is the demo model, vilt-base a random APT-ViLT of ViLT-B/32's size. Each number of samples is a process of its
own; --rank lets it rank the layers too. Prints a Markdown table: peak resident memory, seconds, and those of processor
time, which other work on the machine lengthens less.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from memvp_export.calibration.calibrate import calibrate
from memvp_export.examples.random_vilt import PRESETS, write_source
from memvp_export.examples.shapes.files import MODEL
from memvp_export.examples.shapes.questions import question
from memvp_export.examples.shapes.scenes import draw
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.export import export_onnx
from memvp_export.exporter.progress import Progress

PICTURES = 256


def write_questions(folder: Path, count: int) -> Path:
    """Questions of the training split about PICTURES scenes, in turns."""
    folder.mkdir(exist_ok=True)
    lines = []
    for index in range(count):
        scene, one = question("train", 7, index % PICTURES)
        if index < PICTURES:
            draw(scene).save(folder / f"{index}.png", compress_level=1)
        lines.append(json.dumps({"id": str(index), "text": one.text, "image": f"{index % PICTURES}.png"}) + "\n")
    path = folder / f"{count}.jsonl"
    path.write_text("".join(lines))
    return path


def main() -> None:
    """Export once, calibrate in child processes, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("shapes", "vilt-base"))
    parser.add_argument("--rank", action="store_true")
    parser.add_argument("--samples", type=int, nargs="*", default=[32, 512, 4096])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        bundle, data, count = options.measure
        progress, start = Progress(), time.perf_counter()
        calibrate(bundle, data, "int8", samples=int(count), rest="fp32", sensitivity=options.rank, progress=progress)
        seconds, busy = time.perf_counter() - start, time.process_time()
        print(f"| {count} | {progress.peak_mib:.0f} MiB | {seconds:.0f} s | {busy:.0f} s |", flush=True)
        return
    with tempfile.TemporaryDirectory() as work:
        if options.model == "vilt-base":
            write_source(Path(work) / "source", PRESETS["base"])
        source = MODEL if options.model == "shapes" else Path(work) / "source"
        bundle = export_onnx(read_source(source), Path(work) / "bundle", "fp32", golden=False)
        print("| samples | peak memory | time | processor time |\n|---|---|---|---|", flush=True)
        for count in options.samples:
            data = write_questions(Path(work) / "data", count)
            command = [sys.executable, __file__, options.model, "--measure", str(bundle.root), str(data), str(count)]
            subprocess.run([*command, *["--rank"] * options.rank], check=True)


if __name__ == "__main__":
    main()
