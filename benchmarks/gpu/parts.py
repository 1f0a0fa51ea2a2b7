"""What the parts of run_all.py share: where they work, and how they call the tool."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_MAIN = "from memvp_export.cli import main; main()"
# Exit code of a command that this machine has not got what it needs for.
LACKS = 3


@dataclass(frozen=True)
class Place:
    """Where results go, and at what size: `layers` of the LLaMA-7B-shaped model, or hardly anything in a dry run.
    python8 is a program that runs a Python with TensorRT 8, headers8 the folder of its C++ headers, None without."""

    root: Path
    results: Path
    layers: int
    dry_run: bool
    python8: Path | None = None
    headers8: Path | None = None

    def json(self, part: str) -> Path:
        """The result of a part."""
        return self.results / f"{part}.json"

    def found(self, part: str) -> dict[str, Any] | None:
        """What a part found, None where it is to be run: where it has not been through, only in a dry run, or for want
        of something that may be here now."""
        try:
            found: dict[str, Any] = json.loads(self.json(part).read_text())
        except FileNotFoundError:
            return None
        return None if "lacks" in found or found["dry_run"] != self.dry_run else found

    @property
    def work(self) -> Path:
        """Bundles and engines: large, and nothing to keep."""
        folder = self.results / ("dry-work" if self.dry_run else "work")
        folder.mkdir(exist_ok=True)
        return folder

    def tool(self, *words: object) -> dict[str, Any]:
        """Run a memvp-export command: exit code, last line, seconds, and its JSON where it printed some. "lacks" says
        what this machine has not got, where that is why it ended."""
        started = time.monotonic()
        command = [sys.executable, "-c", _MAIN, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        print("$ memvp-export", *words, "\n", done.stderr, flush=True)
        lines = done.stderr.rstrip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        found: dict[str, Any] = {
            "words": [str(word) for word in words],
            "code": done.returncode,
            "said": lines[-1] if lines else "",
            "seconds": round(time.monotonic() - started, 2),
        }
        if done.returncode == LACKS and errors:
            found["lacks"] = "\n".join(lines[lines.index(errors[0]) :])
        if done.stdout.strip().startswith(("{", "[")):
            found["json"] = json.loads(done.stdout)
        return found


def no_tensorrt() -> dict[str, str]:
    """What a part lacks that is about engines alone, where this Python has no TensorRT; empty where it has one."""
    if any(map(find_spec, ("tensorrt", "tensorrt_rtx"))):
        return {}
    return {"lacks": "this Python imports neither tensorrt nor tensorrt_rtx"}


@dataclass(frozen=True)
class Part:
    """A name, the most seconds it may take, and what makes its result."""

    name: str
    seconds: int
    run: Callable[[Place], dict[str, Any]]
