"""Python and its packages."""

import re
import sys
from collections.abc import Iterator
from importlib import metadata

from ..child_process import run_code
from .check import DISTRIBUTION, Check, installed_version, pip_line, tried

# Exporting, and checking the result on the CPU, is what has to work everywhere.
BASE_EXTRAS = ("", "export", "cpu")
_IGNORED_EXTRAS = ("dev",)
# Tried by checks of their own, which also find what no pip package brought.
_IGNORED = ("tensorrt", "tensorrt_rtx")
_SAME_MODULE = {"onnxruntime": ("onnxruntime-gpu",)}


def check_python() -> list[Check]:
    """The interpreter is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    new_enough = sys.version_info >= (3, 11)
    fix = "" if new_enough else "Use Python 3.11 or newer."
    return [Check("python", "ok" if new_enough else "broken", f"{version} at {sys.executable}", fix, needed=True)]


def check_packages() -> list[Check]:
    """Every package of the base and of each extra, against the lowest version that is supported."""
    try:
        return [_package(*requirement) for requirement in _requirements()]
    except metadata.PackageNotFoundError:
        fix = "In the source folder:  pip install -e ."
        return [Check("packages", "broken", f"{DISTRIBUTION} itself is not installed", fix, needed=True)]


def _requirements() -> Iterator[tuple[str, str, str]]:
    """(package, lowest version, extra) of every requirement, each package once."""
    seen = {DISTRIBUTION, *_IGNORED}
    for line in metadata.requires(DISTRIBUTION) or []:
        extra = found[1] if (found := re.search(r"extra == ['\"](.+?)['\"]", line)) else ""
        if not (parts := re.match(r"([\w.-]+)[^;]*?(?:>=\s*([\d.]+))?\s*(?:;|$)", line)):
            continue
        name, lowest = parts[1], parts[2] or "0"
        if name not in seen and extra not in _IGNORED_EXTRAS:
            seen.add(name)
            yield name, lowest, extra


def _package(name: str, lowest: str, extra: str) -> Check:
    found = next(((n, v) for n in (name, *_SAME_MODULE.get(name, ())) if (v := installed_version(n))), None)
    title, needed, fix = f"package {name}", extra in BASE_EXTRAS, pip_line(extra)
    if found is None:
        if name == "onnxruntime-gpu" and installed_version("onnxruntime"):
            fix = f"pip uninstall -y onnxruntime && {fix}"
        return Check(title, "missing", f"not installed (extra {extra})" if extra else "not installed", fix, needed)
    if _numbers(found[1]) < _numbers(lowest):
        return Check(title, "broken", f"{found[1]} is older than {lowest}", f"{fix} --upgrade", needed)
    return Check(title, "ok", " ".join(found) if found[0] != name else found[1], needed=needed)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


_TORCH = """
import torch
result = (torch.ones(2, 3) @ torch.ones(3, 2)).sum().item()
assert result == 12, f"2x3 @ 3x2 of ones sums to {result}, not 12"
cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA"
print(f"{torch.__version__} multiplies; {cuda}")
"""


def check_torch() -> list[Check]:
    """PyTorch loads and multiplies."""
    name = "torch runs"
    if installed_version("torch") is None:
        return [Check(name, "missing", "not installed", pip_line("export"), needed=True)]
    return [tried(name, lambda: run_code(_TORCH), f"Install it again:  {pip_line('export')}", needed=True)]
