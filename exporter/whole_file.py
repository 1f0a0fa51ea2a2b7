"""A file that appears whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .bundle import check_no_file_of_bundle
from .errors import EnvironmentLack, InputError
from .partial import partial_file, remove_leftovers


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write to a partial file beside path, renamed when the block ends well; what killed runs left of it is removed.

    What is no regular file, such as /dev/stdout, is written to as it is. Raises InputError where path is a folder, or a
    file of a bundle; EnvironmentLack where it cannot be written.
    """
    path = path.resolve()
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file.")
    check_no_file_of_bundle(path)
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        with partial_file(path) as (partial, file):
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be written: {error.strerror}.") from error
