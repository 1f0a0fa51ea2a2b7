"""TensorRT's C++ headers: where they are, and of which version."""

import os
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from ..exporter.errors import EnvironmentLack, InputError

LOWEST = (8, 5)
_CACHE = Path("~/.cache/tensorrt-headers")
_SYSTEM = Path("/usr/include")
_RECOMMENDED = "10.0.0"
_HELP = f"""They are part of a TensorRT installation: give its folder with --headers or TENSORRT_ROOT. Or take them from
NVIDIA's open-source repository; a library built with those of 10.0 serves TensorRT 10 and 11:
  git clone --depth 1 --branch v{_RECOMMENDED} --filter=blob:none --sparse https://github.com/NVIDIA/TensorRT \\
    {_CACHE}/{_RECOMMENDED}
  git -C {_CACHE}/{_RECOMMENDED} sparse-checkout set include"""


@dataclass(frozen=True)
class Headers:
    """The folder that holds NvInfer.h, and its version, such as 10.0.0."""

    folder: Path
    version: str


def find_headers(given: Path | None = None) -> Headers:
    """Headers in `given`, TENSORRT_ROOT, the system's folders or ~/.cache/tensorrt-headers/<version>, first come first.

    A folder may hold them itself or under `include`. Of several versions in the cache the lowest 10.x is taken: what
    is built with it also serves the later ones.

    Raises InputError where a folder that was named has none, EnvironmentLack where none are found; both say what to do.
    """
    named = [(given, "--headers")] if given else [(os.environ.get("TENSORRT_ROOT"), "TENSORRT_ROOT")]
    for folder, source in named:
        if folder:
            found = _inside(Path(folder))
            if found is None:
                raise InputError(f"{source} is {folder}, where there is no NvInfer.h of TensorRT.\n{_HELP}")
            return _supported(found)
    system = _inside(_SYSTEM)
    if system:
        return _supported(system)
    cached = [found for folder in _versions() if (found := _inside(folder))]
    if cached:
        return _supported(min(cached, key=_preference))
    raise EnvironmentLack(f"TensorRT's C++ headers (NvInfer.h) were not found.\n{_HELP}")


def _inside(folder: Path) -> Headers | None:
    folder = folder.expanduser()
    # Debian's packages, JetPack's among them, put headers into a folder named after the machine.
    machine = sysconfig.get_config_var("MULTIARCH") or ""
    for place in (folder, folder / machine, folder / "include", folder / "include" / machine):
        if (place / "NvInfer.h").is_file() and (version := _version(place / "NvInferVersion.h")):
            return Headers(place.resolve(), version)
    return None


def _version(file: Path) -> str | None:
    """10.0.0 from NvInferVersion.h. Newer ones define NV_TENSORRT_MAJOR through another macro."""
    text = file.read_text(errors="replace") if file.is_file() else ""
    defined = dict(re.findall(r"^#define\s+(\w+)\s+(\w+)", text, re.MULTILINE))
    parts = [defined.get(f"NV_TENSORRT_{part}", "") for part in ("MAJOR", "MINOR", "PATCH")]
    numbers = [defined.get(part, part) for part in parts]
    return ".".join(numbers) if all(number.isdecimal() for number in numbers) else None


def _versions() -> list[Path]:
    cache = _CACHE.expanduser()
    return sorted(cache.iterdir()) if cache.is_dir() else []


def _numbers(headers: Headers) -> tuple[int, ...]:
    return tuple(int(number) for number in headers.version.split("."))


def _preference(headers: Headers) -> tuple[bool, tuple[int, ...]]:
    numbers = _numbers(headers)
    return numbers[0] < 10, numbers


def _supported(headers: Headers) -> Headers:
    if _numbers(headers)[:2] < LOWEST:
        lowest = ".".join(map(str, LOWEST))
        raise InputError(
            f"{headers.folder} holds the headers of TensorRT {headers.version}; the plugin needs {lowest} or newer."
        )
    return headers
