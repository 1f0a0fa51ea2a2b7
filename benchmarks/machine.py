"""The machine a figure was measured on."""

import os
import platform
from importlib import metadata
from pathlib import Path


def describe() -> dict[str, str]:
    """Processor, cores, memory and the versions that matter."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {name: metadata.version(name) for name in ("torch", "onnx", "onnxruntime")}
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "python": platform.python_version(),
    } | (versions)
