"""Everything about memvp-export that only a GPU can show, in parts of at most eight minutes that can be resumed.

    python benchmarks/gpu/run_all.py [--results build/gpu] [--part NAME ...] [--budget SECONDS]
    python benchmarks/gpu/run_all.py --tensorrt-8 PROGRAM ...       (a Python 3.8 to 3.10 that imports TensorRT 8)
    python benchmarks/gpu/run_all.py --results FOLDER --dry-run     (on any machine, at sizes that mean nothing)

Needs the repository, PyTorch, and what memvp-export needs; nothing has to be installed from it, and nothing is fetched.
Kernels also need nvcc; engines need a TensorRT that Python can import as `tensorrt` or `tensorrt_rtx`. What is missing
is said in the part that needs it, and the others run.

Every part runs in a process of its own, writes <part>.log and, once it is through, <part>.json; a part whose JSON is
there is not run again, so that a second call goes on where the first one stopped. No part is started for which the
budget has no time left. Short tables of all that is there come last.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import engine_parts
import kernel_parts
import paper_latency
import result_tables
import tensorrt8_parts
from parts import Part, Place

ROOT = Path(__file__).resolve().parents[2]
BUDGET = 1800


def environment(place: Place) -> dict[str, object]:
    """The machine, and what memvp-export can do on it."""
    from memvp_export.exporter.machine import describe, state

    return {"machine": describe(), "state": state(), "doctor": place.tool("doctor", "--json")}


PARTS = [Part("environment", 90, environment), *kernel_parts.PARTS, paper_latency.PART, *engine_parts.PARTS]
PARTS += tensorrt8_parts.PARTS


def run_part(part: Part, place: Place, arguments: list[str], seconds: float) -> str:
    """Run a part in a process of its own; "done", "failed" or "out of time"."""
    command = [sys.executable, __file__, *arguments, "--run", part.name]
    with (place.results / f"{part.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            # With all that it started.
            os.killpg(process.pid, 9)
            process.wait()
            return "out of time"
        except BaseException:
            os.killpg(process.pid, 9)
            raise
    return "failed" if code else "done"


def run_here(part: Part, place: Place) -> None:
    """Run a part in this process and write its JSON, whole or not at all."""
    started = time.monotonic()
    found = {"part": part.name, "dry_run": place.dry_run, **part.run(place)}
    found["seconds"] = round(time.monotonic() - started, 1)
    partial = place.json(part.name).with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1, default=str) + "\n")
    partial.replace(place.json(part.name))


def make_importable() -> None:
    """Let this process and its children import memvp_export, whose packages lie in the repository's top folder."""
    link = ROOT / "build" / "import" / "memvp_export"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to("../..")
    sys.path.insert(0, str(link.parent))
    given = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{link.parent}{os.pathsep}{given}" if given else str(link.parent)


def main() -> int:
    """Command line; returns 1 where a part failed or ran out of time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--part", action="append", choices=[part.name for part in PARTS], metavar="NAME")
    parser.add_argument("--layers", type=int, default=4, help="of the LLaMA-7B-shaped model")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds in all")
    parser.add_argument(
        "--tensorrt-8", type=Path, metavar="PROGRAM", help="runs a Python with TensorRT 8; a script may set its paths"
    )
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--list", action="store_true", help="name the parts and their limits")
    parser.add_argument("--run", choices=[part.name for part in PARTS], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(f"{part.name:32}{part.seconds:5d} s" for part in PARTS))
        return 0
    asked.results.mkdir(parents=True, exist_ok=True)
    python8 = asked.tensorrt_8.absolute() if asked.tensorrt_8 else None
    place = Place(ROOT, asked.results.resolve(), asked.layers, asked.dry_run, python8)
    if asked.run:
        make_importable()
        run_here(next(part for part in PARTS if part.name == asked.run), place)
        return 0
    arguments = ["--results", str(place.results), "--layers", str(asked.layers)]
    arguments += ["--dry-run"] if asked.dry_run else []
    arguments += ["--tensorrt-8", str(python8)] if python8 else []
    end, failed = time.monotonic() + asked.budget, False
    for part in PARTS:
        left = end - time.monotonic()
        if asked.part and part.name not in asked.part:
            continue
        if place.json(part.name).exists():
            state = "there already"
        elif left < min(part.seconds, 30):
            state = "not started: the budget is used up"
        else:
            state = run_part(part, place, arguments, min(part.seconds, left))
            failed |= state != "done"
        print(f"{part.name:32}{state}", flush=True)
    print()
    print(result_tables.tables(place.results))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
