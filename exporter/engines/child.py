"""build_engine.py in a process of its own: TensorRT may crash, or keep memory, without taking the tool along."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..child_process import ChildFailed, module_objects
from ..errors import EnvironmentLack, InputError, ToolError, VerdictError
from ..progress import Advance
from . import build_engine
from .engine_error import EngineError

_KINDS: dict[str, type[ToolError]] = {"input": InputError, "environment": EnvironmentLack, "verdict": VerdictError}


def tool_error(error: EngineError) -> ToolError:
    """The same failure as the tool's own error class, which has its exit code."""
    return _KINDS[error.kind](str(error))


def build_in_child(recipe: Path, total: int, advance: Advance) -> Path:
    """Build the engine of a recipe and return the path of its record; advance is told shares of `total`.

    Raises InputError, EnvironmentLack or VerdictError with the child's own message; VerdictError where it crashed,
    EnvironmentLack where it was killed, which the system does to the largest program when memory runs out.
    """
    told = 0
    for said in _said(f"it built {recipe.name}", "build", str(recipe)):
        if "percent" in said:
            done = total * said["percent"] // 100
            advance(done - told)
            told = done
        elif "record" in said:
            advance(total - told)
            return Path(said["record"])
    raise AssertionError("build_engine ended without a result")


def require_ready(asked: Mapping[str, Any]) -> None:
    """Raise what `build_in_child` would raise for want of a TensorRT, a GPU, a plugin library or a timing cache that
    builds like these can use. asked are the keys of a recipe that `build_engine.ready` reads, with absolute paths."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "asked.json"
        recipe.write_text(json.dumps(asked))
        for _ in _said("it was tried", "ready", str(recipe)):
            pass


def _said(when: str, *words: str) -> Iterator[dict[str, Any]]:
    """What build_engine says; the errors among it are raised. when is what it does, in words that follow "while"."""
    try:
        for said in module_objects(build_engine.__name__, *words):
            if "error" in said:
                raise tool_error(EngineError(said["error"], said["kind"]))
            yield said
    except ChildFailed as failure:
        raise _failure(failure, when) from failure


def _failure(failure: ChildFailed, when: str) -> Exception:
    if failure.signal == "SIGKILL":
        return EnvironmentLack(
            f"TensorRT was killed while {when}: this machine has probably too little memory. Lower --max-batch or "
            "--max-seq, limit --workspace, or build where there is more memory (--lower-only DIR)."
        )
    if failure.signal:
        return VerdictError(f"TensorRT crashed ({failure.signal}) while {when}. {failure.said}".strip())
    return AssertionError(f"build_engine: {failure}")
