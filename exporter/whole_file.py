"""A file that appears whole or not at all."""

import fcntl
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import EnvironmentLack, InputError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write to `.<name>.partial-<process>` beside path, renamed when the block ends well; what killed runs left of it
    is removed.

    Raises InputError where path is a folder, EnvironmentLack where it cannot be written.
    """
    path = path.resolve()
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file.")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        with partial.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _remove_leftovers(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        if left.is_file():
            with left.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                left.unlink(missing_ok=True)
