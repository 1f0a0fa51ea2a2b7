"""build_engine.py in a process of its own: TensorRT may crash, or keep memory, without taking the tool along."""

from pathlib import Path

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
    try:
        for said in module_objects(build_engine.__name__, "build", str(recipe)):
            if "percent" in said:
                done = total * said["percent"] // 100
                advance(done - told)
                told = done
            elif "error" in said:
                raise tool_error(EngineError(said["error"], said["kind"]))
            elif "record" in said:
                advance(total - told)
                return Path(said["record"])
    except ChildFailed as failure:
        raise _failure(failure, recipe) from failure
    raise AssertionError("build_engine ended without a result")


def _failure(failure: ChildFailed, recipe: Path) -> Exception:
    if failure.signal == "SIGKILL":
        return EnvironmentLack(
            f"the builder of {recipe.name} was killed: this machine has probably too little memory. Lower --max-batch "
            "or --max-seq, limit --workspace, or build where there is more memory (--lower-only DIR)."
        )
    if failure.signal:
        return VerdictError(f"TensorRT crashed ({failure.signal}) while it built {recipe.name}. {failure.said}".strip())
    return AssertionError(f"build_engine: {failure}")
