"""The artefact: a folder with graphs, samples, tokenizer and a manifest that names every file with its SHA-256.

A new bundle is made under a temporary name and renamed when it is whole. A change to a bundle writes new files first
and replaces the manifest last, under a lock. Opening checks the manifest and every size; `verify` every digest.
"""

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import EnvironmentLack, InputError

FORMAT = "memvp-export bundle"
SCHEMA = 1
MANIFEST = "manifest.json"
LOCK = ".lock"
_REPLACED = "-old"
_CHUNK = 8 << 20


def sha256_file(path: Path, advance: Callable[[int], None] = lambda size: None) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `manifest` is the parsed manifest.json, checked; paths come from `path` alone."""

    root: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, root: Path | str, verify: bool = False) -> "Bundle":
        """Open a bundle folder. Raises InputError that says whether it is no bundle, cut short, edited, newer than
        this tool, or points outside its folder. With verify, all digests are checked too."""
        root = Path(root)
        bundle = cls(root, _read_manifest(root))
        for name, entry in bundle.manifest["files"].items():
            path = _inside(root, name)
            if not path.is_file():
                raise InputError(f"{root} is cut short: {name} is missing. Export or copy the bundle again.")
            size = path.stat().st_size
            if size != entry["size"]:
                state = "cut short" if size < entry["size"] else "edited"
                raise InputError(f"{root} is {state}: {name} has {size:,} bytes, its manifest says {entry['size']:,}.")
        if verify:
            bundle.verify()
        return bundle

    def verify(self, advance: Callable[[int], None] = lambda size: None) -> None:
        """Compare the SHA-256 of every file with the manifest; raises InputError at the first difference."""
        for name, entry in self.manifest["files"].items():
            if sha256_file(self.path(name), advance) != entry["sha256"]:
                raise InputError(f"{self.root} is edited: the bytes of {name} are not those of its manifest.")

    def path(self, name: str) -> Path:
        """A file of the bundle; InputError where its manifest does not list `name`, or it would lie outside."""
        if name not in self.manifest["files"]:
            raise InputError(f"{self.root} is edited: {MANIFEST} uses {name!r}, which is not in its list of files.")
        return _inside(self.root, name)

    def graph(self, component: str, precision: str | None = None) -> Path:
        """The ONNX file of a component, in the bundle's own precision unless another is named."""
        components = self.manifest["components"]
        if component not in components:
            raise InputError(f"{self.root} has no component {component!r}; it has {', '.join(components)}")
        graphs = components[component]["graphs"]
        precision = precision or self.manifest["precision"]
        if precision not in graphs:
            raise InputError(f"{self.root} has no {precision} graph of {component}; it has {', '.join(graphs)}")
        return self.path(graphs[precision]["file"])

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry["size"] for entry in self.manifest["files"].values())


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not root.exists():
        raise InputError(f"{root} does not exist.")
    if not path.is_file():
        raise InputError(f"{root} is not a bundle: it has no {MANIFEST}.")
    text = path.read_bytes()
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Of what `write_manifest` writes, only the last brace begins a line.
        state = "edited" if text.rstrip().endswith(b"\n}") else "cut short"
        raise InputError(f"{root} is {state}: {MANIFEST} is not whole JSON ({error}).") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{root} is not a bundle: {MANIFEST} is not of the format {FORMAT!r}.")
    schema = manifest.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(
            f"{root} is newer than this tool: its manifest has schema {schema}, this tool reads up to {SCHEMA}. "
            "Upgrade memvp-export."
        )
    if schema != SCHEMA or manifest.get("digest") != _digest(manifest) or not _is_file_list(manifest.get("files")):
        raise InputError(f"{root} is edited: {MANIFEST} does not match its own digest. Export the bundle again.")
    return manifest


def _is_file_list(files: object) -> bool:
    return isinstance(files, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)
        for entry in files.values()
    )


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest's canonical JSON without its own digest."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _inside(root: Path, name: str) -> Path:
    pure = PurePosixPath(name)
    path = root / pure
    outside = pure.is_absolute() or ".." in pure.parts or "\0" in name
    if outside or not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{root} is refused: its manifest names {name!r}, a path outside the bundle.")
    return path


class BundleWriter:
    """A bundle being made: files go below `root`, `record` takes note of them; see `new_bundle` and `change`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, dict[str, Any]] = {}

    def path(self, name: str) -> Path:
        """Where the file `name` is to be written; its folder exists."""
        path = _inside(self.root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def record(self, name: str, sha256: str | None = None) -> None:
        """Enter a written file into the manifest; the digest is computed unless the writer knows it."""
        path = self.path(name)
        self.files[name] = {"size": path.stat().st_size, "sha256": sha256 or sha256_file(path)}

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        """Write manifest.json for `content` and the recorded files; the last act, and atomic."""
        manifest = {"format": FORMAT, "schema": SCHEMA, **content, "files": dict(sorted(self.files.items()))}
        manifest["digest"] = _digest(manifest)
        temporary = self.root / f".{MANIFEST}.partial"
        with temporary.open("w") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.root / MANIFEST)


@contextmanager
def new_bundle(output: Path, overwrite: bool = False) -> Iterator[BundleWriter]:
    """Make a bundle at `output`: on success it appears there at once and whole, else nothing does.

    Raises InputError where `output` exists (unless overwrite, for a bundle), EnvironmentLack where the folder cannot
    be written. Leftovers of runs that were killed are removed.
    """
    target = output.resolve()
    _remove_leftovers(target)
    check_free(output, overwrite)
    with _partial_folder(target) as folder:
        yield BundleWriter(folder)
        if not (folder / MANIFEST).is_file():
            raise AssertionError("a bundle was closed without a manifest")


def check_free(output: Path, overwrite: bool = False) -> None:
    """Raise InputError where a new bundle may not take the name `output`."""
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise InputError(f"{output} exists. Choose another name, or give --overwrite to replace a bundle.")
    if not _is_bundle(output) and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"{output} exists and is not a bundle: it will not be replaced.")


def _is_bundle(folder: Path) -> bool:
    """Whether a manifest of this format lies there, of any schema and state: other tools have a manifest.json too."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


@contextmanager
def _partial_folder(output: Path) -> Iterator[Path]:
    """A locked folder `.<name>.partial-*` beside `output`, renamed to it at the end and removed on any failure."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise EnvironmentLack(f"{output.parent} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
        folder.chmod(0o777 & ~_umask())
        _put_in_place(folder, output)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentLack(
                f"the disk of {output.parent} is full. Make room, or choose another place."
            ) from error
        raise
    finally:
        lock.close()


def _put_in_place(folder: Path, output: Path) -> None:
    """Rename a finished folder to `output`. A bundle of that name is moved aside first and deleted last; where this is
    stopped in between, `_remove_leftovers` brings it back."""
    old = folder.with_name(folder.name + _REPLACED)
    if output.exists():
        output.rename(old)
    try:
        folder.rename(output)
    except BaseException:
        if old.exists():
            old.rename(output)
        raise
    # Until now the lock said that the folder is in use.
    (output / LOCK).unlink()
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove_leftovers(output: Path) -> None:
    """Remove partial folders of `output` that no living process holds, after bringing back a bundle that one of them
    was about to replace."""
    for folder in output.parent.glob(f".{glob.escape(output.name)}.partial-*"):
        holder = folder.with_name(folder.name.removesuffix(_REPLACED))
        try:
            lock = (holder / LOCK).open("r+")
        except OSError:
            # Without a lock it is done with, or empty: between mkdtemp and the lock of another process.
            lock = None
        try:
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder != holder and not output.exists():
                folder.rename(output)
            elif folder.is_dir() and any(folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
        finally:
            if lock is not None:
                lock.close()


@contextmanager
def change(root: Path) -> Iterator[tuple[BundleWriter, dict[str, Any]]]:
    """Change a bundle: yields a writer that knows the present files and a copy of the manifest to edit; the caller
    writes new files and the manifest. One process at a time; InputError where another holds it."""
    bundle = Bundle.open(root)
    try:
        lock = (bundle.root / LOCK).open("w")
    except OSError as error:
        raise EnvironmentLack(f"{root} cannot be written: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{root} is being changed by another process; try again when it is done.") from error
        manifest = json.loads(json.dumps(_read_manifest(bundle.root)))
        writer = BundleWriter(bundle.root)
        writer.files = manifest.pop("files")
        for key in ("format", "schema", "digest"):
            manifest.pop(key)
        yield writer, manifest
        # The lock file stays: whoever waits for it would otherwise lock a file that is gone.
    finally:
        lock.close()
