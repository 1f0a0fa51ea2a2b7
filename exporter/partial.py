"""Work in progress beside its target: `.<name>.partial-*`, locked by its process, removed by the next run after a kill.

A partial file is locked itself, a partial folder through a file in it, a name that only one process may work for
through a file beside it. Whoever locks a leftover may remove it, so a lock counts only where the path still leads to
the locked file.
"""

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LOCK = ".lock"
_REPLACED = "-old"
_HELD = "name"


def lock(path: Path, create: bool = True) -> BinaryIO | None:
    """The file `path`, open for reading and writing and locked until it is closed; None where another process has it.

    Raises OSError where it cannot be opened: FileNotFoundError without create, or where its folder is gone.
    """
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666), "r+b")
        try:
            held = _flock(file)
            # Between opening and locking, another process may have removed or renamed it.
            if held and _leads_to(path, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        if not held:
            return None


def _flock(file: BinaryIO) -> bool:
    try:
        import fcntl
    except ImportError:
        # Locking is POSIX only: elsewhere nothing keeps two processes apart.
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leads_to(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def partial_file(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new locked file beside `target`, and where it is; removed at the end unless it was renamed. Raises OSError."""
    file = None
    while file is None:
        path = _new_name(target)
        file = lock(path)
    try:
        yield path, file
    finally:
        with suppress(OSError):
            path.unlink()
        # A full disk may keep what is still buffered: the exception in flight is the one to keep.
        with suppress(OSError):
            file.close()


@contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """A new locked folder beside `target`; removed at the end unless it was renamed. Raises OSError."""
    file = None
    while file is None:
        folder = _new_name(target)
        folder.mkdir()
        # Another process may take the folder for a leftover before it is locked: then the next one is tried.
        with suppress(FileNotFoundError):
            file = lock(folder / LOCK)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        file.close()


@contextmanager
def held_name(target: Path) -> Iterator[bool]:
    """Keep the name `target` from other processes that ask for it so; yields False where one of them has it. Raises
    OSError."""
    path = _partial(target, _HELD)
    file = lock(path)
    try:
        yield file is not None
    finally:
        if file:
            with suppress(OSError):
                path.unlink()
            file.close()


def is_held(target: Path) -> bool:
    """Whether a living process is in `held_name` of `target`."""
    try:
        file = lock(_partial(target, _HELD), create=False)
    except OSError:
        return False
    if file:
        file.close()
    return file is None


def put_in_place(folder: Path, target: Path, replace: bool) -> None:
    """Rename a finished partial folder to `target`. Raises OSError where something is there (an empty folder apart).

    With replace, what is there is moved aside first and deleted last; where this is stopped in between,
    `remove_leftovers` brings it back.
    """
    old = folder.with_name(folder.name + _REPLACED)
    if replace and target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        # Where something took the name at this very moment, the failure to report is that one.
        with suppress(OSError):
            old.rename(target)
        raise
    # Until now the lock said that the folder is in use.
    (target / LOCK).unlink()
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(target: Path, keep: Path | None = None) -> None:
    """Remove the partial files and folders of `target` that no living process holds, `keep` excepted, after bringing
    back a folder that one of them was about to replace. What cannot be removed stays."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        if path != keep:
            with suppress(OSError):
                _remove_folder(path, target) if path.is_dir() else _remove_file(path)


def _remove_file(path: Path) -> None:
    file = lock(path, create=False)
    if file:
        with file:
            path.unlink()


def _remove_folder(folder: Path, target: Path) -> None:
    replaced = folder.name.endswith(_REPLACED)
    holder = folder.with_name(folder.name.removesuffix(_REPLACED))
    try:
        # Made where it is missing: whoever is about to lock a folder it has just made comes too late, and notices.
        file = lock(holder / LOCK)
    except FileNotFoundError:
        # The holder has its name: what it replaced is done with.
        file = None
        if not replaced:
            return
    else:
        if file is None:
            return
    try:
        if replaced and not os.path.lexists(target):
            folder.rename(target)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        if file:
            file.close()


def _new_name(target: Path) -> Path:
    return _partial(target, secrets.token_hex(4))


def _partial(target: Path, end: str) -> Path:
    return target.with_name(f".{target.name}.partial-{end}")
