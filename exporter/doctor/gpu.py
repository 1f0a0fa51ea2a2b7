"""The GPU, its driver, the CUDA runtime, and what compiles code for it."""

import shutil
import subprocess
from typing import Any

from ...plugins.headers import find_headers
from ...plugins.nvcc import find_nvcc
from ..child_process import ChildFailed, ask_module
from ..console import size
from ..errors import ToolError
from . import probes
from .check import Check, pip_line

_TIMEOUT_S = 60.0
_DRIVER = "Only running engines needs a GPU: install an NVIDIA driver where they are to run."


def check_gpu() -> list[Check]:
    """The GPUs that the driver sees."""
    query = "--query-gpu=name,compute_cap,driver_version,memory.total"
    program = shutil.which("nvidia-smi")
    if program is None:
        return [Check("gpu", "missing", "no NVIDIA driver (nvidia-smi is not found)", _DRIVER)]
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return [Check("gpu", "broken", "nvidia-smi does not answer", "Restart the machine or its driver.")]
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 3]
    if done.returncode or not rows:
        detail = (done.stdout.strip() or done.stderr.strip() or "no GPU is listed").splitlines()[-1]
        return [Check("gpu", "broken", f"nvidia-smi: {detail}", "Install the NVIDIA driver again.")]
    return [
        Check("gpu", "ok", f"{name}, compute capability {capability}, driver {driver}, {memory}")
        for name, capability, driver, memory in rows
    ]


def first_gpu() -> dict[str, Any]:
    """The answer of the probe `cuda`; raises ChildFailed where the runtime fails."""
    return ask_module(probes.__name__, "cuda", timeout=_TIMEOUT_S)


def check_cuda() -> list[Check]:
    """The CUDA runtime, as engines use it, copies to the GPU and back."""
    name, fix = "cuda runtime", f"Update the NVIDIA driver, or install the runtime again:  {pip_line('gpu')}"
    try:
        answer = first_gpu()
    except ChildFailed as failure:
        return [Check(name, "broken", str(failure), fix)]
    gpu = answer["gpu"]
    if gpu is None:
        # Where the driver's own tool is, a GPU was meant to be used.
        if shutil.which("nvidia-smi"):
            return [Check(name, "broken", answer["reason"], fix)]
        return [Check(name, "missing", answer["reason"], _DRIVER)]
    facts = f"{gpu['runtime']}, driver serves {gpu['driver']}, {gpu['name']} (sm_{gpu['sm']})"
    memory = f"{size(gpu['free'])} of {size(gpu['memory'])} free"
    return [Check(name, "ok", f"{facts}, {memory}; copied {size(answer['copied'])} there and back")]


def check_compiler() -> list[Check]:
    """What building the plugin needs: nvcc, a C++ compiler and TensorRT's headers."""
    purpose = "Only `memvp-export plugin build` needs it"
    checks: list[Check] = []
    try:
        nvcc = find_nvcc()
        checks.append(Check("nvcc", "ok", f"{nvcc.version} at {nvcc.path}, for sm_{' '.join(nvcc.archs)}"))
    except ToolError as error:
        fix = f"{purpose}: install the CUDA toolkit."
        checks.append(Check("nvcc", "broken" if shutil.which("nvcc") else "missing", str(error), fix))
    compiler = shutil.which("g++")
    detail, fix = (compiler, "") if compiler else ("not found", f"{purpose}: install g++.")
    checks.append(Check("c++ compiler", "ok" if compiler else "missing", detail or "", fix))
    try:
        headers = find_headers()
        checks.append(Check("tensorrt headers", "ok", f"{headers.version} in {headers.folder}"))
    except ToolError as error:
        said, _, fix = str(error).partition("\n")
        checks.append(Check("tensorrt headers", "missing", said, f"{purpose}. {fix}"))
    return checks
