"""Everything about memvp-export that only a GPU can show, in parts of at most eight minutes that can be resumed.

    python benchmarks/gpu/run_all.py [--results build/gpu] [--part NAME ...] [--budget SECONDS]
    python benchmarks/gpu/run_all.py --tensorrt-8 PROGRAM ...       (a Python 3.8 to 3.10 that imports TensorRT 8)
    python benchmarks/gpu/run_all.py --results FOLDER --dry-run     (on any machine, at sizes that mean nothing)

Needs the repository, PyTorch, and what memvp-export needs; nothing has to be installed from it, and nothing is fetched.
Kernels also need nvcc; engines need a TensorRT that Python can import as `tensorrt` or `tensorrt_rtx`; the plugin needs
TensorRT's C++ headers. What is missing is said in the part that needs it, and the others run.

Every part runs in a process of its own, writes <part>.log and, once it is through, <part>.json. A part that is through
is not run again, so that a second call goes on where the first one stopped; one that lacked something is, after those
that have not been run. Parts come in the order of what they are worth, and none is started with less than 80 % of its
limit left in the budget. A bundle that is gone, as on another machine to which only the JSON files were taken, is
exported again by the part that needs it. Short tables of all that is there come last, also where a call is ended.
"""

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import engine_parts
import family_parts
import kernel_parts
import paper_latency
import result_tables
import tensorrt8_parts
from parts import Part, Place
from result_values import found_in

ROOT = Path(__file__).resolve().parents[2]
BUDGET = 1800
# Share of a part's limit that must be left for it.
_FITS = 0.8
_PR_SET_PDEATHSIG = 1  # of Linux's sys/prctl.h


def environment(place: Place) -> dict[str, object]:
    """The machine, and what memvp-export can do on it."""
    from memvp_export.exporter.machine import describe, state

    return {"machine": describe(), "state": state(), "doctor": place.tool("doctor", "--json")}


# What comes first, where time does not suffice for all: each kind of measurement once, by what it is worth.
FIRST = (
    *("environment", "paper-latency", "kernel-tests", "kernel-speed-float16", "plugin-library"),
    *("shapes-bundle", "shapes-fp16-native-delta", "shapes-fp16-plugin-delta"),
    *("llama-7b-bundle", "llama-7b-fp16-native-delta", "llama-7b-fp16-plugin-delta"),
    *("llama-7b-tensorrt-8-fp16-native", "llama-7b-tensorrt-8-fp16-plugin"),
    *("shapes-tensorrt-8-fp16-native", "shapes-tensorrt-8-fp16-plugin"),
    *("kernel-sanitizer", "kernel-speed-bfloat16", "llama-7b-fp16-native-in_place"),
)


def ordered(parts: list[Part]) -> list[Part]:
    """By FIRST; then the small models, the large one, and tests."""

    def place(part: Part) -> tuple[int, bool, bool]:
        known = FIRST.index(part.name) if part.name in FIRST else len(FIRST)
        return known, part.name.endswith("tests"), part.name.startswith("llama-7b")

    return sorted(parts, key=place)


PARTS = ordered(
    [
        Part("environment", 150, environment),
        paper_latency.PART,
        *kernel_parts.PARTS,
        *engine_parts.PARTS,
        *engine_parts.QUANTIZED_PARTS,
        *engine_parts.TESTS,
        *family_parts.PARTS,
        *tensorrt8_parts.PARTS,
    ]
)


def run_part(part: Part, place: Place, arguments: list[str], seconds: float) -> str:
    """Run a part in a process of its own; "done", "failed" or "out of time"."""
    command = [sys.executable, __file__, *arguments, "--run", part.name]
    # What an earlier call left must not stand for this one.
    place.json(part.name).unlink(missing_ok=True)
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
            # An interrupt, or a signal to end: nothing may go on on the GPU.
            os.killpg(process.pid, 9)
            raise
    return f"failed: see {part.name}.log" if code else "done"


def run_here(part: Part, place: Place) -> None:
    """Run a part in this process and write its JSON, whole or not at all."""
    started = time.monotonic()
    found = {"part": part.name, "dry_run": place.dry_run, **part.run(place)}
    found["seconds"] = round(time.monotonic() - started, 1)
    partial = place.json(part.name).with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1, default=str) + "\n")
    partial.replace(place.json(part.name))


def end_with_caller() -> None:
    """Let this process, and all that it starts, end where the one that runs the parts is killed."""
    signal.signal(signal.SIGTERM, lambda number, frame: os.killpg(0, signal.SIGKILL))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


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
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--part", action="append", choices=[part.name for part in PARTS], metavar="NAME")
    parser.add_argument("--layers", type=int, default=4, help="of the LLaMA-7B-shaped model")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds in all")
    parser.add_argument(
        "--tensorrt-8", type=Path, metavar="PROGRAM", help="runs a Python with TensorRT 8; a script may set its paths"
    )
    parser.add_argument(
        "--tensorrt-8-headers", type=Path, metavar="FOLDER", help="with NvInfer.h, for its plugin's parts"
    )
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--list", action="store_true", help="name the parts and their limits")
    parser.add_argument("--run", choices=[part.name for part in PARTS], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(f"{part.name:40}{part.seconds:5d} s" for part in PARTS))
        return 0
    asked.results.mkdir(parents=True, exist_ok=True)
    if asked.dry_run and any(not one["dry_run"] for one in found_in(asked.results).values()):
        parser.error(f"{asked.results} holds what was measured: name another folder for a dry run.")
    given = {"--tensorrt-8": asked.tensorrt_8, "--tensorrt-8-headers": asked.tensorrt_8_headers}
    host8 = {option: path and path.absolute() for option, path in given.items()}
    place = Place(ROOT, asked.results.resolve(), asked.layers, asked.dry_run, *host8.values())
    if asked.run:
        end_with_caller()
        make_importable()
        run_here(next(part for part in PARTS if part.name == asked.run), place)
        return 0
    arguments = ["--results", str(place.results), "--layers", str(asked.layers)]
    arguments += ["--dry-run"] if asked.dry_run else []
    arguments += [word for option, path in host8.items() if path for word in (option, str(path))]
    try:
        return run_all(
            [part for part in PARTS if not asked.part or part.name in asked.part], place, arguments, asked.budget
        )
    finally:
        shown = result_tables.tables(place.results)
        (place.results / "tables.txt").write_text(shown + "\n")
        print(f"\n{shown}")


def run_all(parts: list[Part], place: Place, arguments: list[str], budget: float) -> int:
    """Run the parts that the budget of seconds suffices for; 1 where one failed or ran out of time."""
    end, failed = time.monotonic() + budget, False
    # What was run has lacked something, and may again.
    for part in sorted(parts, key=lambda part: place.json(part.name).exists()):
        left = end - time.monotonic()
        if place.found(part.name) is not None:
            state = "there already"
        elif left < _FITS * part.seconds:
            state = "not started: the budget is used up"
        else:
            state = run_part(part, place, arguments, min(part.seconds, left))
            failed |= state != "done"
        print(f"{part.name:40}{state}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
