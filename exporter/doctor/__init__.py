"""What this machine can do, found by trying it.

Every check is one function that returns `Check`s; CHECKS lists them. Anything that can crash or hang (a runtime, a
GPU driver) is tried in a child process, so that its death is a line of the report and not the end of it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ..errors import EnvironmentLack
from .check import Check
from .gpu import check_compiler, check_cuda, check_gpu
from .onnx_runtime import check_onnxruntime, check_onnxruntime_conflict
from .packages import check_packages, check_python, check_torch
from .plugin import check_plugin
from .system import check_disk, check_hugging_face_cache, check_memory, check_write_permission
from .tensorrt import check_tensorrt, check_tensorrt_rtx

__all__ = ["CHECKS", "Check", "doctor", "exit_code"]

_BUG = "This is a bug in memvp-export: please report it."
CHECKS: list[Callable[[], list[Check]]] = [
    check_python,
    check_packages,
    check_torch,
    check_onnxruntime_conflict,
    check_onnxruntime,
    check_gpu,
    check_cuda,
    check_compiler,
    check_plugin,
    check_tensorrt,
    check_tensorrt_rtx,
    check_disk,
    check_memory,
    check_write_permission,
    check_hugging_face_cache,
]


def doctor() -> list[Check]:
    """Run all checks, a few at a time, and return them in the order of CHECKS. Raises nothing; takes seconds."""
    with ThreadPoolExecutor(4) as pool:
        return [check for checks in pool.map(_guarded, CHECKS) for check in checks]


def exit_code(checks: list[Check]) -> int:
    """0 where exporting and checking on the CPU work, else 3; optional parts do not count."""
    works = all(check.status == "ok" for check in checks if check.needed)
    return 0 if works else EnvironmentLack.exit_code


def _guarded(check: Callable[[], list[Check]]) -> list[Check]:
    try:
        return check()
    except Exception as error:
        fix = "Install the packages that are missing." if isinstance(error, ImportError) else _BUG
        name = check.__name__.removeprefix("check_").replace("_", " ")
        return [Check(name, "broken", f"the check itself failed: {type(error).__name__}: {error}", fix)]
