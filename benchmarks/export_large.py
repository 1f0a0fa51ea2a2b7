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

from memvp_export.exporter.machine import describe

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


def export(source: Path, bundle: Path, extra: list[str]) -> dict[str, Any]:
    """One export in fp16: seconds, peak resident MiB, and the seconds of each stage."""
    shutil.rmtree(bundle, ignore_errors=True)
    os.sync()
    seconds, peak, output = tool("onnx", str(source), "-o", str(bundle), "--precision", "fp16", "--json", *extra)
    told = json.loads(output)
    stages = {stage["name"]: stage["seconds"] for stage in told["stages"]}
    # Measuring its stages, the command resets what the system knows of its peak, and keeps count itself.
    return {"seconds": seconds, "peak_mib": max(peak, told["peak_mib"]), "stages": stages}


def measure(source: Path, bundle: Path, part: str) -> Any:
    """The figures of one part."""
    if part == "copy_seconds":
        return timed_copy(source, source.with_name("copy"))
    if part == "without_golden":
        return export(source, bundle, ["--no-golden"])
    if part == "with_golden":
        return export(source, bundle, [])
    if part == "inspect":
        seconds, peak, _ = tool("inspect", str(bundle), "--json")
        return {"seconds": seconds, "peak_mib": peak}
    seconds, peak, output = child(
        [sys.executable, str(Path(__file__).with_name("one_step.py")), str(source), str(bundle)]
    )
    return {"seconds": seconds, "peak_mib": peak, **json.loads(output)}


PARTS = ("copy_seconds", "without_golden", "with_golden", "inspect", "one_step")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="7b")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="measure these anew, keep the others")
    parser.add_argument("--keep", action="store_true", help="keep source and bundle")
    arguments = parser.parse_args()
    source, bundle = arguments.folder / "source", arguments.folder / "bundle"
    if not (source / "model.toml").exists():
        child([sys.executable, "-m", "memvp_export.examples.random_source", str(source), "--preset", arguments.preset])
    results = RESULTS / f"export-{arguments.preset}.json"
    found: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    found |= {"machine": describe(), "preset": arguments.preset}
    found["source_bytes"] = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    RESULTS.mkdir(exist_ok=True)
    for part in arguments.parts:
        found[part] = measure(source, bundle, part)
        results.write_text(json.dumps(found, indent=1) + "\n")
    if not arguments.keep:
        shutil.rmtree(arguments.folder)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
