"""The machine that a figure was measured on: what stays, and what changes from one minute to the next."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = ("memvp-export", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx", "numpy")
_MEMINFO = Path("/proc/meminfo")
_TIMEOUT_S = 20.0


def describe() -> dict[str, str]:
    """Processor, cores this process may use, memory, system, the first GPU with its driver, and the versions that
    matter. What the system does not say is left out."""
    facts = {
        "cpu": _processor(),
        "cores": str(usable_cores()),
        "memory": f"{total / 2**30:.0f} GiB" if (total := _memory("MemTotal")) else "",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **dict(zip(("gpu", "driver", "gpu power limit"), _ask_gpu("name,driver_version,power.limit"), strict=False)),
    }
    for name in _PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {name: fact for name, fact in facts.items() if fact}


def state() -> dict[str, str]:
    """What moves a figure and does not stay: the load of the last minute, and the GPU's clocks and temperature."""
    load = {"load": f"{os.getloadavg()[0]:.2f}"} if hasattr(os, "getloadavg") else {}
    names = ("gpu clock", "gpu clock limit", "gpu memory clock", "gpu temperature")
    found = _ask_gpu("clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu")
    return load | dict(zip(names, found, strict=False))


def available_memory() -> int | None:
    """Bytes that programs can still take; None where the system does not say."""
    return _memory("MemAvailable")


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _memory(entry: str) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
        return int(lines[entry].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return None


def _ask_gpu(query: str) -> list[str]:
    """What the driver says of the first GPU; nothing where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--id=0", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    first = done.stdout.strip().splitlines()[:1] if done.returncode == 0 else []
    return [cell.strip() for cell in first[0].split(",")] if first else []
