"""A text file that appears whole or not at all."""

import fcntl
import glob
import os
from pathlib import Path

from ..errors import EnvironmentLack, InputError


def write_whole(path: Path, text: str) -> None:
    """Write `.<name>.partial-<process>` beside path and rename it; what killed runs left of it is removed.

    Raises InputError where path is a folder, EnvironmentLack where it cannot be written.
    """
    path = path.resolve()
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file that the page goes to.")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        with partial.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        if left.is_file():
            with left.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                left.unlink(missing_ok=True)
