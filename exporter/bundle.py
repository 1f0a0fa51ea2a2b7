"""The artefact: a folder with graphs, samples, tokenizer and a manifest that names every file with its SHA-256.

A new bundle is made under a temporary name and renamed when it is whole. A change to a bundle writes new files first
and replaces the manifest last, under a lock. Opening checks the manifest and every size; `verify` every digest.
"""

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .disk import lack_of_room, require_writable
from .errors import EnvironmentLack, InputError
from .forms import fault
from .keep_fp32 import own_patterns
from .partial import LOCK, held_name, is_held, lock, partial_folder, put_in_place, remove_leftovers
from .precisions import PLAIN

FORMAT = "memvp-export bundle"
SCHEMA = 1
MANIFEST = "manifest.json"
# Folders of files that a command makes from the others: a bundle that has lost some is still one.
_MADE_BY = {"engines": "trt", "calibration": "calibrate", "reports": "calibrate"}
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
        this tool, or points outside its folder. Files that can be made again may be missing. With verify, all digests
        are checked too."""
        root = Path(root)
        bundle = cls(root, _read_manifest(root))
        for name, entry in bundle.manifest["files"].items():
            path = inside(root, name)
            if not path.is_file():
                if maker(name):
                    continue
                raise InputError(f"{root} is cut short: {name} is missing. Export or copy the bundle again.")
            size = path.stat().st_size
            if size != entry["size"]:
                state = "cut short" if size < entry["size"] else "edited"
                fix = f" Delete that file, and make it again with `{maker(name)}`." if maker(name) else ""
                raise InputError(
                    f"{root} is {state}: {name} has {size:,} bytes, its manifest says {entry['size']:,}.{fix}"
                )
        if verify:
            bundle.verify()
        return bundle

    def verify(self, advance: Callable[[int], None] = lambda size: None, names: Collection[str] | None = None) -> None:
        """Compare the SHA-256 of every file that is not `missing`, or of those in `names`, with the manifest; raises
        InputError at the first difference."""
        missing = self.missing
        for name, entry in self.manifest["files"].items():
            if names is not None and name not in names:
                continue
            if name not in missing and sha256_file(self.path(name), advance) != entry["sha256"]:
                raise InputError(f"{self.root} is edited: the bytes of {name} are not those of its manifest.")

    def path(self, name: str) -> Path:
        """A file of the bundle; InputError where its manifest does not list `name`, it would lie outside, or it is
        missing."""
        if name not in self.manifest["files"]:
            raise InputError(f"{self.root} is edited: {MANIFEST} uses {name!r}, which is not in its list of files.")
        path = inside(self.root, name)
        if maker(name) and not path.is_file():
            raise InputError(f"{self.root} is cut short: {name} is missing. Make it again with `{maker(name)}`.")
        return path

    @property
    def missing(self) -> list[str]:
        """Files of the manifest that are not there now, all of which can be made again."""
        return [name for name in self.manifest["files"] if maker(name) and not inside(self.root, name).is_file()]

    def graph(self, component: str, precision: str | None = None) -> Path:
        """The ONNX file of a component, in the bundle's own precision unless another is named."""
        components = self.manifest["components"]
        if component not in components:
            raise InputError(f"{self.root} has no component {component!r}; it has {', '.join(components)}")
        graphs = components[component]["graphs"]
        precision = precision or self.manifest["precision"]
        if precision not in graphs:
            hint = "" if precision in PLAIN else f" Make it with `memvp-export calibrate {self.root}`."
            raise InputError(f"{self.root} has no {precision} graph of {component}; it has {', '.join(graphs)}.{hint}")
        return self.path(graphs[precision]["file"])

    def keep_fp32(self, component: str, precision: str) -> tuple[str, ...]:
        """The patterns of the modules that a component's graph keeps in float32; those of its family where there is no
        such graph."""
        graph = self.manifest["components"][component]["graphs"].get(precision)
        if graph is None:
            return own_patterns(self.manifest["family"], component, precision)
        return tuple(graph.get("keep_fp32", ()))

    def plain_precision(self, precision: str | None = None) -> str:
        """The precision of ports of dtype "graph": the graphs' own, or that of all that is not quantized in them."""
        precision = precision or str(self.manifest["precision"])
        graphs = (entry["graphs"].get(precision, {}) for entry in self.manifest["components"].values())
        return next((str(graph["rest"]) for graph in graphs if "rest" in graph), precision)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry["size"] for entry in self.manifest["files"].values())


def opened(bundle: Bundle | Path | str) -> Bundle:
    """A bundle that may have been opened before."""
    return bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)


def maker(name: str) -> str | None:
    """The command that makes a file of a bundle from the others; None for what only an export makes."""
    command = _MADE_BY.get(name.split("/", 1)[0])
    return command and f"memvp-export {command}"


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
    if schema != SCHEMA or manifest.get("digest") != _digest(manifest):
        raise InputError(f"{root} is edited: {MANIFEST} does not match its own digest. Export the bundle again.")
    if wrong := fault(manifest, _CONTENT):
        raise InputError(f"{root} is edited: {wrong} in its {MANIFEST}. Export the bundle again.")
    return manifest


# What schema 1 says, see `fault`. Families and precisions read their own entries further.
PORTS = [{"name": str, "dtype": str, "dims": [(int, str)]}]
RANGES = {str: [int, int]}
CACHE = ({"kind": str, "axis": int, "layers": int}, None)
GPU = ({"name": str, "sm": str, "driver": str}, None)
PLUGIN = ({"operators": [str], "build_id": (str, None), "sha256": (str, None), "embedded": bool}, None)
PROFILES = [{"name": str, "shapes": {str: {"min": [int], "opt": [int], "max": [int]}}}]
_CONTENT: dict[Any, Any] = {
    "files": {str: {"size": int, "sha256": str}},
    "family": str,
    "task": str,
    "precision": str,
    "options": dict,
    "config": dict,
    "preprocessing": dict,
    "tokenizer": {"type": str, "file": str},
    "generation": ({"max_new_tokens": int, "max_sequence": int}, None),
    "labels": (list, None),
    "memory": (dict, None),
    "components": {
        str: {
            "inputs": PORTS,
            "outputs": PORTS,
            "ranges": RANGES,
            "cache": CACHE,
            "graphs": {str: {"file": str, "opset": int}},
        }
    },
    "engines": [
        {
            **dict.fromkeys(("component", "file", "layers", "precision", "lowering", "target"), str),
            **dict.fromkeys(("tensorrt", "flavor"), str),
            "gpu": GPU,
            "plugin": PLUGIN,
            "inputs": PORTS,
            "outputs": PORTS,
            "ranges": RANGES,
            "cache": CACHE,
            "profiles": PROFILES,
        }
    ],
    "samples": ({"tensors": str, "requests": str, "answers": str}, None),
    "sources": [{"key": str, "file": str, "size": int, "sha256": str}],
}


def graph_entry(file: str, opset: int, keep_fp32: Sequence[str] = ()) -> dict[str, Any]:
    """The manifest's entry of a graph; it names the patterns of what stays float32 only where there are some."""
    return {"file": file, "opset": opset, **({"keep_fp32": [*keep_fp32]} if keep_fp32 else {})}


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest's canonical JSON without its own digest."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def inside(root: Path, name: str) -> Path:
    """The path of a file that a manifest names. InputError where it, or what it links to, lies outside `root`."""
    pure = PurePosixPath(name)
    path = root / pure
    if pure.is_absolute() or ".." in pure.parts or "\0" in name:
        raise InputError(f"{root} is refused: its manifest names {name!r}, a path outside the bundle.")
    real = path.resolve()
    if not real.is_relative_to(root.resolve()):
        raise InputError(
            f"{root} is refused: {name} is, or lies behind, a link that leaves the bundle, to {real}. Put the file "
            "itself in its place."
        )
    return path


class BundleWriter:
    """A bundle being made: files go below `root`, `record` takes note of them; see `new_bundle` and `change`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, dict[str, Any]] = {}

    def path(self, name: str) -> Path:
        """Where the file `name` is to be written; its folder exists."""
        path = inside(self.root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def record(self, name: str, sha256: str | None = None) -> None:
        """Enter a written file into the manifest; the digest is computed unless the writer knows it."""
        path = self.path(name)
        self.files[name] = {"size": path.stat().st_size, "sha256": sha256 or sha256_file(path)}

    def forget(self, names: Collection[str], content: Mapping[str, Any]) -> None:
        """Before these files get other bytes, write manifest.json without those of them that are recorded: a manifest
        must never list a file that has other bytes. `content` has to speak of none of them any more."""
        if held := self.files.keys() & {*names}:
            self.files = {name: entry for name, entry in self.files.items() if name not in held}
            self.write_manifest(content)

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        """Write manifest.json for `content` and the recorded files; the last act, and atomic."""
        manifest = {"format": FORMAT, "schema": SCHEMA, **content, "files": dict(sorted(self.files.items()))}
        manifest["digest"] = _digest(manifest)
        temporary = self.root / f".{MANIFEST}.partial"
        try:
            with temporary.open("w") as file:
                json.dump(manifest, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.root / MANIFEST)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


@contextmanager
def new_bundle(output: Path, overwrite: bool = False) -> Iterator[BundleWriter]:
    """Make a bundle at `output`: on success it appears there at once and whole, else nothing does.

    Raises InputError where `output` exists (unless overwrite, for a bundle) at the start or the end, or is being made
    by another process; EnvironmentLack where the folder cannot be written. Leftovers of runs that were killed are
    removed.
    """
    target = output.resolve()
    remove_leftovers(target)
    check_free(output, overwrite)
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not stack.enter_context(held_name(target)):
                raise _being_made(output)
            folder = stack.enter_context(partial_folder(target))
        except OSError as error:
            raise EnvironmentLack(f"{target.parent} cannot be written: {error.strerror}.") from error
        try:
            yield BundleWriter(folder)
            if not (folder / MANIFEST).is_file():
                raise AssertionError("a bundle was closed without a manifest")
            _publish(folder, output, target, overwrite)
        except OSError as error:
            if lack := lack_of_room(error, target):
                raise lack from error
            raise


def _publish(folder: Path, output: Path, target: Path, overwrite: bool) -> None:
    """Give a finished folder its name, unless something took it during the work, such as another export."""
    taken = f"while this bundle was made, something else was put at {output}: that is kept, this bundle is dropped."
    try:
        check_free(output, overwrite)
    except InputError as error:
        raise InputError(f"{taken} {error}") from error
    try:
        put_in_place(folder, target, replace=overwrite)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise InputError(f"{taken} Choose another name.") from error
        raise


def check_place(output: Path, overwrite: bool = False) -> None:
    """Raise what `new_bundle` would raise at its start, before any work and without writing anything."""
    check_free(output, overwrite)
    target = output.resolve()
    if is_held(target):
        raise _being_made(output)
    require_writable(target.parent)


def _being_made(output: Path) -> InputError:
    return InputError(f"{output} is being made by another process. Choose another name, or wait for its end.")


def check_free(output: Path, overwrite: bool = False) -> None:
    """Raise InputError where a new bundle may not take the name `output`."""
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise InputError(f"{output} exists. Choose another name, or give --overwrite to replace a bundle.")
    if not _is_bundle(output) and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"{output} exists and is not a bundle: it will not be replaced.")


def check_no_file_of_bundle(output: Path) -> None:
    """Raise InputError where `output` is the manifest or a listed file of a bundle, which would be destroyed."""
    path = output.resolve()
    for root in path.parents:
        if _is_bundle(root):
            files = json.loads((root / MANIFEST).read_bytes()).get("files", {})
            if path.relative_to(root).as_posix() in (MANIFEST, *files):
                raise InputError(f"{output} is a file of the bundle {root}, which would be destroyed. Name another.")


def _is_bundle(folder: Path) -> bool:
    """Whether a manifest of this format lies there, of any schema and state: other tools have a manifest.json too."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


@contextmanager
def change(root: Path, wait: bool = False) -> Iterator[tuple[BundleWriter, dict[str, Any]]]:
    """Change a bundle: yields a writer that knows the present files and a copy of the manifest to edit; the caller
    writes new files and the manifest. One process at a time: where another holds it, InputError, or with wait, for
    those whose work would be lost, its end is waited for."""
    bundle = Bundle.open(root)
    try:
        while (held := lock(bundle.root / LOCK)) is None and wait:
            time.sleep(0.2)
    except OSError as error:
        raise EnvironmentLack(f"{root} cannot be written: {error.strerror}.") from error
    if held is None:
        raise InputError(f"{root} is being changed by another process; try again when it is done.")
    # The lock file stays: whoever waits for it would otherwise lock a file that is gone.
    with held:
        manifest = json.loads(json.dumps(_read_manifest(bundle.root)))
        writer = BundleWriter(bundle.root)
        writer.files = manifest.pop("files")
        for key in ("format", "schema", "digest"):
            manifest.pop(key)
        yield writer, manifest
