"""bundle -> TensorRT engines: the whole of `memvp-export trt`."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bundle import Bundle, BundleWriter, change, graph_entry
from ..errors import EnvironmentLack, InputError, MissingPackage
from ..graphs.lowering.native import merged_bytes
from ..inspection.values import load_graph
from ..partial import partial_folder, remove_leftovers
from ..progress import Progress
from .carried import read_carried, write_carried
from .child import build_in_child
from .entering import Built, enter, judge
from .recipes import write_recipe
from .request import Request, Settled, settle

# Half precision has half the bytes; what a graph keeps in float32 is small.
_ITEM_SIZE = {"fp32": 4, "fp16": 2, "bf16": 2}
# Beside engines of the size of their weights, and new weights: lowered graphs and records.
_HEADROOM = 256 << 20


def build_engines(
    bundle: Bundle | Path | str, request: Request | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Build the engines of a bundle and enter them into it; returns their entries in the manifest.

    A precision that the bundle has no graphs of is made first, which needs PyTorch. All engines are entered or none.
    Raises InputError, EnvironmentLack where TensorRT, memory or disk are missing, VerdictError where an engine is not
    what was asked for.
    """
    bundle, progress = _opened(bundle), progress or Progress()
    settled = _local(settle(bundle, request or Request()))
    _require_room(bundle, settled, bundle.root)
    bundle = _with_graphs(bundle, settled, progress)
    with _work_folder(bundle.root) as folder:
        built = []
        for name in settled.lowerings:
            recipe = write_recipe(bundle, name, settled, folder, progress)
            size = _weight_bytes(bundle, name, settled.precision)
            with progress.stage(f"build {name}", size) as advance:
                build_in_child(recipe, size, advance)
            with progress.stage(f"read back {name}"):
                built.append(judge(bundle, recipe))
        return enter(bundle.root, built)


def lower_engines(
    bundle: Bundle | Path | str, folder: Path, request: Request | None = None, progress: Progress | None = None
) -> list[Path]:
    """Write all that another machine needs to build the engines into a new `folder`: lowered graphs with their weights,
    recipes, the builder and build.sh. Returns the recipes. Raises InputError where the folder is not empty."""
    bundle, progress = _opened(bundle), progress or Progress()
    settled = settle(bundle, request or Request(), elsewhere=True)
    if cache := settled.request.timing_cache:
        settled = replace(settled, request=replace(settled.request, timing_cache=Path(cache.name)))
    _require_room(bundle, settled, folder.absolute().parent)
    bundle = _with_graphs(bundle, settled, progress)
    return write_carried(bundle, settled, folder, progress)


def adopt_engines(bundle: Bundle | Path | str, folder: Path, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Enter the engines that were built in a folder of `lower_engines`; returns their entries in the manifest.

    The folder stays as it is. Raises as `judge` does; nothing is entered unless all its engines are good.
    """
    bundle, progress = _opened(bundle), progress or Progress()
    recipes = read_carried(folder)
    built = []
    for recipe in recipes:
        with progress.stage(f"read back {recipe.name.split('.')[0]}"):
            built.append(judge(bundle, recipe))
    _require_free(bundle.root, sum(path.stat().st_size for one in built for path in (one.engine, one.record_path)))
    with _work_folder(bundle.root) as work, progress.stage("copy the engines"):
        return enter(bundle.root, [_copied(one, work) for one in built])


def plan_engines(
    bundle: Bundle | Path | str, request: Request | None = None, elsewhere: bool = False
) -> dict[str, Any]:
    """What `build_engines` (elsewhere: `lower_engines`) would do, as JSON data for a dry run; nothing is written."""
    bundle = _opened(bundle)
    settled = settle(bundle, request or Request(), elsewhere)
    components = [
        {
            "name": name,
            "lowering": lowering.name,
            "why": lowering.reason,
            "bytes": _weight_bytes(bundle, name, settled.precision),
            "traced": name not in settled.untraced,
            "keep_fp32": [*settled.keep_fp32[name]],
        }
        for name, lowering in settled.lowerings.items()
    ]
    return {
        "target": settled.target,
        "precision": settled.precision,
        "cache": None if settled.request.single_pass else settled.request.cache,
        "components": components,
        "bytes": sum(_weight_bytes(bundle, name, settled.precision) for name in settled.lowerings),
        "disk_free": shutil.disk_usage(bundle.root).free,
    }


def _opened(bundle: Bundle | Path | str) -> Bundle:
    return bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)


def _local(settled: Settled) -> Settled:
    """The same with a timing cache that does not depend on the current folder."""
    cache = settled.request.timing_cache
    if cache is None:
        return settled
    if not cache.absolute().parent.is_dir():
        raise InputError(f"{cache.parent} does not exist: the timing cache cannot be kept there.")
    return replace(settled, request=replace(settled.request, timing_cache=cache.absolute()))


def _weight_bytes(bundle: Bundle, name: str, precision: str) -> int:
    """Bytes of a component's weights in a precision, estimated where it has not been traced yet."""
    graphs = bundle.manifest["components"][name]["graphs"]
    held = precision if precision in graphs else next(iter(graphs))
    data = bundle.manifest["files"].get(f"{graphs[held]['file']}.data")
    if data is None or held == precision:
        return data["size"] if data else 0
    return int(data["size"] * _ITEM_SIZE[precision] // _ITEM_SIZE[held])


def _require_room(bundle: Bundle, settled: Settled, folder: Path) -> None:
    """Raise EnvironmentLack where engines, or copies of the graphs' data, and the weights that lowering makes do not
    fit on the disk of `folder`, or graphs that are to be traced on the bundle's."""
    traced = sum(_weight_bytes(bundle, name, settled.precision) for name in settled.untraced)
    made = sum(
        _weight_bytes(bundle, name, settled.precision) + _lowered_bytes(bundle, name, settled)
        for name in settled.lowerings
    )
    while not folder.is_dir():
        folder = folder.parent
    if folder.stat().st_dev == bundle.root.stat().st_dev:
        _require_free(folder, traced + made + _HEADROOM)
    else:
        _require_free(bundle.root, traced)
        _require_free(folder, made + _HEADROOM)


def _lowered_bytes(bundle: Bundle, name: str, settled: Settled) -> int:
    """Bytes of the weights that native lowering writes anew: the down projections with the memory's tables."""
    if settled.lowerings[name].name == "plugin":
        return 0
    graphs = bundle.manifest["components"][name]["graphs"]
    held = settled.precision if settled.precision in graphs else next(iter(graphs))
    size = merged_bytes(load_graph(bundle.graph(name, held)))
    return size if held == settled.precision else size * _ITEM_SIZE[settled.precision] // _ITEM_SIZE[held]


def _require_free(folder: Path, need: int) -> None:
    """Raise EnvironmentLack where the disk of a folder has less than `need` bytes free."""
    free = shutil.disk_usage(folder).free
    if need > free:
        raise EnvironmentLack(f"the disk is too small: {folder} needs {need:,} bytes, {free:,} are free.")


def _with_graphs(bundle: Bundle, settled: Settled, progress: Progress) -> Bundle:
    """The bundle with the graphs that are asked for, traced now where they are missing or keep other modules."""
    if not settled.untraced:
        return bundle
    try:
        from ..graphs.precision import trace_again
        from ..graphs.trace import default_opset
    except ImportError as error:
        progress.note(f"{bundle.root} has no such {settled.precision} graphs: making them needs PyTorch.")
        raise MissingPackage(error.name or "torch", "export") from error
    precision, traced = settled.precision, {}
    with _work_folder(bundle.root) as folder:
        made = BundleWriter(folder)
        for name in settled.untraced:
            keep = settled.keep_fp32[name]
            path = trace_again(bundle, name, precision, made, progress, keep)
            traced[name] = graph_entry(str(path.relative_to(folder)), default_opset(precision), keep)
        with change(bundle.root, wait=True) as (writer, manifest):
            graphs = {name: manifest["components"][name]["graphs"] for name in traced}
            if any(graphs[name].pop(precision, None) for name in traced):
                # First without the old ones: a manifest must never list a file that has other bytes.
                writer.files = {name: entry for name, entry in writer.files.items() if name not in made.files}
                writer.write_manifest(manifest)
            for file in made.files:
                (folder / file).replace(writer.path(file))
            for name, entry in traced.items():
                graphs[name][precision] = entry
            writer.files |= made.files
            writer.write_manifest(manifest)
    return Bundle.open(bundle.root)


@contextmanager
def _work_folder(root: Path) -> Iterator[Path]:
    """A folder on the bundle's disk that is gone at the end; leftovers of killed runs are removed."""
    target = root.resolve() / "engines"
    remove_leftovers(target)
    try:
        with partial_folder(target) as folder:
            yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentLack(f"the disk of {root} is full. Make room and build again.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise EnvironmentLack(f"{root} cannot be written: {error.strerror}.") from error
        raise


def _copied(built: Built, folder: Path) -> Built:
    for path in (built.engine, built.record_path):
        shutil.copyfile(path, folder / path.name)
    return replace(built, engine=folder / built.engine.name, record_path=folder / built.record_path.name)
