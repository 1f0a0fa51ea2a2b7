"""A file that appears whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import EnvironmentLack, InputError
from .partial import partial_file, remove_leftovers


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write to a partial file beside path, renamed when the block ends well; what killed runs left of it is removed.

    Raises InputError where path is a folder, EnvironmentLack where it cannot be written.
    """
    path = path.resolve()
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        with partial_file(path) as (partial, file):
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be written: {error.strerror}.") from error
