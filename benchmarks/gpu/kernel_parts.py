"""The plugin's kernels alone: correctness, sanitizer, and speed beside what torch can do. No TensorRT is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from typing import Any

from parts import Part, Place

_TOOL = re.compile(r"(memcheck|racecheck|initcheck|synccheck): (.*)")


def script(name: str, place: Place) -> dict[str, Any]:
    """A part of tests/gpu/run_all.sh; its own logs and JSON files lie in `kernels`."""
    if place.dry_run:
        return {"lacks": "this is a dry run"}
    import torch

    if not torch.cuda.is_available():
        return {"lacks": "torch sees no CUDA GPU"}
    from memvp_export.exporter.errors import EnvironmentLack
    from memvp_export.plugins.nvcc import find_nvcc

    if not shutil.which("nvidia-smi"):
        return {"lacks": "nvidia-smi is not on PATH"}
    try:
        toolkit = find_nvcc().path.parent
    except EnvironmentLack as lack:
        return {"lacks": str(lack)}
    # With the sanitizer beside nvcc.
    os.environ["PATH"] = f"{toolkit}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", place.root / "tests/gpu/run_all.sh", place.results / "kernels", name]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    print(done.stdout, done.stderr)
    if done.returncode:
        sys.exit(f"{name} failed")
    return {"said": done.stdout.splitlines()[-24:]}


def sanitizer(place: Place) -> dict[str, Any]:
    """What each tool of compute-sanitizer says of the kernels."""
    found = script("sanitizer", place)
    if "lacks" in found:
        return found
    if not shutil.which("compute-sanitizer"):
        return {"lacks": "compute-sanitizer is not on PATH"}
    return {"tools": dict(match.groups() for line in found["said"] if (match := _TOOL.fullmatch(line)))}


def speed(dtype: str, place: Place) -> dict[str, Any]:
    """benchmarks/kernel_speed.py in a half precision; in a dry run its own dry run."""
    if place.dry_run:
        output = place.work / f"kernel-speed-{dtype}.json"
        program = place.root / "benchmarks/kernel_speed.py"
        subprocess.run([sys.executable, program, "--dry-run", "--dtype", dtype, "--output", output], check=True)
        return {"measured": json.loads(output.read_text())}
    found = script(dtype, place)
    if "lacks" in found:
        return found
    return {"measured": json.loads((place.results / f"kernels/kernel-speed-{dtype}.json").read_text())}


PARTS = [
    Part("kernel-tests", 240, partial(script, "tests")),
    Part("kernel-speed-float16", 420, partial(speed, "float16")),
    Part("kernel-speed-bfloat16", 420, partial(speed, "bfloat16")),
    Part("kernel-sanitizer", 460, sanitizer),
]
