"""Export a random LLaMA-7B-shaped source (13.5 GB, float16): peak memory, time against a plain copy, and one step.

    python benchmarks/export_large.py FOLDER [--preset 7b] [--keep]

FOLDER needs 40 GB free. Made there: the source, a copy of it (timed, removed), the bundle. Prints a table and writes
benchmarks/results/export-<preset>.json. Peak memory is the highest resident set of a child process.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import describe

RESULTS = Path(__file__).parent / "results"


def child(arguments: list[str]) -> tuple[float, float, str]:
    """Seconds, peak resident MiB and standard output of a child process."""
    start = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(arguments)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024, output


def tool(*arguments: str) -> tuple[float, float, str]:
    """The command line of the project in a child process."""
    return child([sys.executable, "-c", "from memvp_export.cli import main; main()", *arguments])


def timed_copy(source: Path, target: Path) -> float:
    """Seconds that `cp -r` takes, data on the disk included."""
    os.sync()
    start = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    os.sync()
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def measure(folder: Path, preset: str) -> dict[str, Any]:
    """All figures."""
    source, bundle = folder / "source", folder / "bundle"
    if not (source / "model.toml").exists():
        child([sys.executable, "-m", "memvp_export.examples.random_source", str(source), "--preset", preset])
    found: dict[str, Any] = {"machine": describe(), "preset": preset}
    found["source_bytes"] = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    found["copy_seconds"] = timed_copy(source, folder / "copy")
    for name, extra in (("without_golden", ["--no-golden"]), ("with_golden", [])):
        shutil.rmtree(bundle, ignore_errors=True)
        os.sync()
        seconds, peak, output = tool("onnx", str(source), "-o", str(bundle), "--precision", "fp16", "--json", *extra)
        os.sync()
        told = json.loads(output)
        stages = {stage["name"]: stage["seconds"] for stage in told["stages"]}
        # Measuring its stages, the command resets what the system knows of its peak, and keeps count itself.
        found[name] = {"seconds": seconds, "peak_mib": max(peak, told["peak_mib"]), "stages": stages}
    stages = found["with_golden"]["stages"]
    tracing = sum(value for name, value in stages.items() if name.startswith("trace"))
    found["limit_seconds"] = 2 * found["copy_seconds"] + tracing + stages["golden samples"]
    found["inspect_seconds"], found["inspect_peak_mib"], _ = tool("inspect", str(bundle), "--json")
    seconds, peak, output = child(
        [sys.executable, str(Path(__file__).with_name("one_step.py")), str(source), str(bundle)]
    )
    found["one_step"] = {"seconds": seconds, "peak_mib": peak, **json.loads(output)}
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="7b")
    parser.add_argument("--keep", action="store_true", help="keep source and bundle")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    found = measure(arguments.folder, arguments.preset)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"export-{arguments.preset}.json").write_text(json.dumps(found, indent=1) + "\n")
    if not arguments.keep:
        shutil.rmtree(arguments.folder)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
