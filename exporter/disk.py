"""Room on a disk, folders for work in progress, and what a disk refuses to take, said of the place that was being
written: the system's own error names no file."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import EnvironmentLack
from .partial import partial_folder, remove_leftovers


def lack_of_room(error: OSError, place: Path) -> EnvironmentLack | None:
    """The message for a disk or quota that is full, or a limit on the size of files; None for any other error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentLack(f"the disk of {place} is full. Make room, or choose another place.")
    if error.errno == errno.EFBIG:
        return EnvironmentLack(
            f"{place} cannot be written: a file of it is larger than the limit here (`ulimit -f`, or its disk's own)."
        )
    return None


def nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk where `folder` is or will be."""
    return shutil.disk_usage(nearest(folder)).free


def require_free(folder: Path, need: int) -> None:
    """Raise EnvironmentLack where the disk of `folder`, which need not exist yet, has less than `need` bytes free."""
    free = free_bytes(folder)
    if need > free:
        raise EnvironmentLack(f"the disk is too small: {folder} needs {need:,} bytes, {free:,} are free.")


def require_writable(folder: Path) -> None:
    """Raise EnvironmentLack where nothing could be made in `folder`, which need not exist yet; nothing is written."""
    path = folder.absolute()
    place = next(one for one in (path, *path.parents) if one.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "no permission" if place.is_dir() else f"{place} is a file"
        raise EnvironmentLack(f"{folder} cannot be written: {why}.")


def require_readable(path: Path) -> None:
    """Raise EnvironmentLack where a file may not be read: for readers whose own error says that it is damaged."""
    if path.exists() and not os.access(path, os.R_OK):
        raise EnvironmentLack(f"{path} cannot be read: no permission.")


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that is gone at the end, unless it was renamed; leftovers of killed runs are removed.
    Raises EnvironmentLack where that place cannot be written, or its disk is full."""
    path = target.resolve()
    remove_leftovers(path)
    try:
        with partial_folder(path) as folder:
            yield folder
    except OSError as error:
        if lack := lack_of_room(error, target.parent):
            raise lack from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise EnvironmentLack(f"{target.parent} cannot be written: {error.strerror}.") from error
        raise
