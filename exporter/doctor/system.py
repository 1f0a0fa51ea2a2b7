"""Disk, memory, permissions, and where downloads go."""

import os
import shutil
import tempfile
from pathlib import Path

from ..console import size
from ..machine import available_memory
from .check import Check

_LOW_DISK = 1 << 30


def check_disk() -> list[Check]:
    """Free space where the current folder is."""
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{size(free)} free in {Path.cwd()}; a bundle takes about the size of its checkpoint"
    fix = "" if free >= _LOW_DISK else "Free some space, or work on another disk."
    return [Check("disk", "ok" if free >= _LOW_DISK else "broken", detail, fix)]


def check_memory() -> list[Check]:
    """Memory that programs can still take."""
    available = available_memory()
    if available is None:
        return [Check("memory", "ok", "its size cannot be read on this system")]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [Check("memory", "ok", f"{size(available)} of {size(total)} available")]


def check_write_permission() -> list[Check]:
    """A file can be made in the current folder."""
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()) as file:
            file.write(b"1")
    except OSError as error:
        fix = "Work in a folder of your own, or give --output elsewhere."
        return [Check("write permission", "broken", f"{Path.cwd()}: {error.strerror}", fix, needed=True)]
    return [Check("write permission", "ok", str(Path.cwd()), needed=True)]


def check_hugging_face_cache() -> list[Check]:
    """Where `hf:` sources are kept, whether it can be written, and whether downloads are switched off."""
    base = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(base) / "hub").expanduser().absolute()
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    mode = "offline: only what is there is used" if offline else "online"
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(existing, os.W_OK) and not offline:
        fix = "Set HF_HOME to a folder that you can write."
        return [Check("hugging face cache", "broken", f"{cache} cannot be written", fix)]
    return [Check("hugging face cache", "ok", f"{cache} ({mode})")]
