"""The plugin's kernels alone: correctness, sanitizer, and speed beside what torch can do. No TensorRT is needed."""

import json
import shutil
import subprocess
import sys
from functools import partial
from typing import Any

from parts import Part, Place


def script(name: str, place: Place) -> dict[str, Any]:
    """A part of tests/gpu/run_all.sh; its own logs and JSON files lie in `kernels`."""
    if place.dry_run:
        return {"lacks": "this is a dry run"}
    import torch

    if not torch.cuda.is_available():
        return {"lacks": "torch sees no CUDA GPU"}
    if not shutil.which("nvcc"):
        return {"lacks": "nvcc is not on PATH"}
    command = ["bash", place.root / "tests/gpu/run_all.sh", place.results / "kernels", name]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    print(done.stdout, done.stderr)
    if done.returncode:
        sys.exit(f"{name} failed")
    return {"said": done.stdout.splitlines()[-6:]}


def speed(place: Place) -> dict[str, Any]:
    """benchmarks/kernel_speed.py in both half precisions; in a dry run its own dry run."""
    if place.dry_run:
        output = place.work / "kernel-speed.json"
        program = place.root / "benchmarks/kernel_speed.py"
        subprocess.run([sys.executable, program, "--dry-run", "--output", output], check=True)
        return {"measured": [json.loads(output.read_text())]}
    found = script("benchmark", place)
    files = sorted((place.results / "kernels").glob("kernel-speed-*.json"))
    return found | {"measured": [json.loads(path.read_text()) for path in files]}


PARTS = [
    Part("kernel-tests", 240, partial(script, "tests")),
    Part("kernel-sanitizer", 400, partial(script, "sanitizer")),
    Part("kernel-speed", 300, speed),
]
