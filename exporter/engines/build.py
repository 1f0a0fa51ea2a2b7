"""bundle -> TensorRT engines: the whole of `memvp-export trt`."""

import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..bundle import Bundle, BundleWriter, change, graph_entry, opened
from ..disk import free_bytes, nearest, require_free, require_writable, work_folder
from ..errors import EnvironmentLack, InputError, MissingPackage
from ..graphs.lowering.native import merged_bytes
from ..inspection.values import load_graph
from ..packages import needing
from ..precisions import ITEM_SIZE
from ..progress import Progress
from .build_engine import SCHEMA
from .carried import check_empty, read_carried, write_carried
from .child import build_in_child, require_ready
from .entering import Built, enter, judge
from .recipes import write_recipe
from .request import Request, Settled, settle
from .source_graph import graph_digests

FOLDER = "engines"
# Beside engines of the size of their weights, and new weights: lowered graphs and records.
_HEADROOM = 256 << 20


def build_engines(
    bundle: Bundle | Path | str, request: Request | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Build the engines of a bundle and enter them into it; returns their entries in the manifest.

    The graphs' digests are compared first. A precision that the bundle has no graphs of is then made, which needs
    PyTorch. All engines are entered or none. Raises InputError, EnvironmentLack where TensorRT, memory or disk are
    missing, VerdictError where an engine is not what was asked for.
    """
    bundle, progress = opened(bundle), progress or Progress()
    settled = _settled(bundle, request, None)
    _require_room(bundle, settled, bundle.root)
    _verify_graphs(bundle, settled, progress)
    bundle = _with_graphs(bundle, settled, progress)
    with work_folder(bundle.root / FOLDER) as folder:
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
    recipes, the builder and build.sh. Returns the recipes. Raises InputError where the folder is not empty or the
    bundle's graphs are damaged."""
    bundle, progress = opened(bundle), progress or Progress()
    settled = _settled(bundle, request, folder)
    _require_room(bundle, settled, folder.absolute().parent)
    _verify_graphs(bundle, settled, progress)
    bundle = _with_graphs(bundle, settled, progress)
    return write_carried(bundle, settled, folder, progress)


def adopt_engines(bundle: Bundle | Path | str, folder: Path, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Enter the engines that were built in a folder of `lower_engines`; returns their entries in the manifest.

    The folder stays as it is. Raises as `judge` does; nothing is entered unless all its engines are good.
    """
    bundle, progress = opened(bundle), progress or Progress()
    recipes = read_carried(folder)
    built = []
    for recipe in recipes:
        with progress.stage(f"read back {recipe.name.split('.')[0]}"):
            built.append(judge(bundle, recipe))
    _require_own_files(built, folder)
    _compare_digests(bundle, {name for one in built for name in one.recipe["source"]}, progress)
    require_free(bundle.root, sum(path.stat().st_size for one in built for path in (one.engine, one.record_path)))
    with work_folder(bundle.root / FOLDER) as work, progress.stage("copy the engines"):
        return enter(bundle.root, [_copied(one, work) for one in built])


def _require_own_files(built: Sequence[Built], folder: Path) -> None:
    """Raise InputError where recipes share an engine or a record, as a copy of a recipe does."""
    names = [path.name for one in built for path in (one.engine, one.record_path)]
    if shared := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{folder} has more than one recipe of {', '.join(shared)}: remove the copies.")


def plan_engines(
    bundle: Bundle | Path | str, request: Request | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """What `build_engines` (with a folder: `lower_engines`) would do, as JSON data for a dry run; nothing is written.
    Raises what those raise before they write anything, but for weights whose bytes changed: of weights only sizes are
    compared."""
    bundle = opened(bundle)
    settled = _settled(bundle, request, folder)
    place = folder.absolute().parent if folder else bundle.root
    _require_room(bundle, settled, place)
    # Digests of weights would take as long as reading them does.
    bundle.verify(names=[name for name in _graph_files(bundle, settled) if not name.endswith(".data")])
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
    cached = any(bundle.manifest["components"][name]["cache"] for name in settled.lowerings)
    return {
        "target": settled.target,
        "precision": settled.precision,
        "cache": settled.request.cache if cached and not settled.request.single_pass else None,
        "components": components,
        "notes": settled.notes,
        "bytes": sum(_weight_bytes(bundle, name, settled.precision) for name in settled.lowerings),
        "disk_free": free_bytes(place),
    }


def _settled(bundle: Bundle, request: Request | None, folder: Path | None) -> Settled:
    """The request settled, for engines that are built here, or elsewhere from a `folder`, and what it needs found to be
    here: places that can be written, PyTorch where graphs are to be traced, the TensorRT that builds. The timing cache
    lies beside recipes for elsewhere, else where it does not depend on the current folder."""
    settled = settle(bundle, request or Request(), elsewhere=folder is not None)
    if folder is not None:
        check_empty(folder)
        if folder.resolve().is_relative_to(bundle.root.resolve()):
            raise InputError(f"{folder} lies in the bundle that it is made of: choose a name outside of {bundle.root}.")
    cache = settled.request.timing_cache
    if cache is not None and cache.is_dir():
        raise InputError(f"{cache} is a folder: give the timing cache's file, which need not be there yet.")
    _require_tracer(bundle, settled)
    if folder is None or settled.untraced:
        require_writable(bundle.root)
    require_writable(bundle.root / FOLDER if folder is None else folder.absolute().parent)
    if folder is not None:
        return settled if cache is None else _with_timing_cache(settled, Path(cache.name))
    if cache is not None:
        if not cache.absolute().parent.is_dir():
            raise InputError(f"{cache.parent} does not exist: the timing cache cannot be kept there.")
        require_writable(cache.absolute().parent)
        settled = _with_timing_cache(settled, cache.absolute())
    require_ready(_of_builds(settled))
    return settled


def _with_timing_cache(settled: Settled, path: Path) -> Settled:
    return replace(settled, request=replace(settled.request, timing_cache=path))


def _of_builds(settled: Settled) -> dict[str, Any]:
    """What the recipes will have in common, see `build_engine.ready`."""
    request, library = settled.request, settled.library
    used = any(lowering.name == "plugin" for lowering in settled.lowerings.values())
    return {
        "schema": SCHEMA,
        "target": settled.target,
        "cache": None if request.single_pass else {"kind": request.cache},
        "timing_cache": str(request.timing_cache) if request.timing_cache else None,
        "plugin": {"library": str(library.path), "operators": [*library.operators]} if library and used else None,
    }


def _require_tracer(bundle: Bundle, settled: Settled) -> None:
    """Raise EnvironmentLack where graphs are to be traced that cannot be here."""
    for package in ("torch", "onnxscript") if settled.untraced else ():
        if find_spec(package) is None:
            raise EnvironmentLack(
                f"{bundle.root} has no such {settled.precision} graphs, and without PyTorch none can be made: "
                f"{MissingPackage(package, 'export')}"
            )


def _verify_graphs(bundle: Bundle, settled: Settled, progress: Progress) -> None:
    """Compare the digests of the graphs that are lowered, or traced again, and of their weights: an engine keeps
    whatever is in them. Reads them once; the build then finds much of them in memory."""
    for note in settled.notes:
        progress.note(note)
    _compare_digests(bundle, _graph_files(bundle, settled), progress)


def _graph_files(bundle: Bundle, settled: Settled) -> list[str]:
    """The graphs that are lowered, or traced again, and their weights, by their names in the bundle."""
    return [
        file
        for name in settled.lowerings
        for file in graph_digests(
            bundle, name, bundle.manifest["precision"] if name in settled.untraced else settled.precision
        )
    ]


def _compare_digests(bundle: Bundle, names: Collection[str], progress: Progress) -> None:
    size = sum(bundle.manifest["files"][name]["size"] for name in names)
    with progress.stage("compare digests of the graphs", size) as advance:
        bundle.verify(advance, names)


def _weight_bytes(bundle: Bundle, name: str, precision: str) -> int:
    """Bytes of a component's weights in a precision, estimated where it has not been traced yet."""
    graphs = bundle.manifest["components"][name]["graphs"]
    held = precision if precision in graphs else next(iter(graphs))
    data = bundle.manifest["files"].get(f"{graphs[held]['file']}.data")
    if data is None or held == precision:
        return data["size"] if data else 0
    # What a half graph keeps in float32 is small.
    return int(data["size"] * ITEM_SIZE[precision] // ITEM_SIZE[held])


def _require_room(bundle: Bundle, settled: Settled, folder: Path) -> None:
    """Raise EnvironmentLack where engines, or copies of the graphs' data, and the weights that lowering makes do not
    fit on the disk of `folder`, or graphs that are to be traced on the bundle's."""
    traced = sum(_weight_bytes(bundle, name, settled.precision) for name in settled.untraced)
    made = sum(
        _weight_bytes(bundle, name, settled.precision) + _lowered_bytes(bundle, name, settled)
        for name in settled.lowerings
    )
    folder = nearest(folder)
    if folder.stat().st_dev == bundle.root.stat().st_dev:
        require_free(folder, traced + made + _HEADROOM)
    else:
        require_free(bundle.root, traced)
        require_free(folder, made + _HEADROOM)


def _lowered_bytes(bundle: Bundle, name: str, settled: Settled) -> int:
    """Bytes of the weights that native lowering writes anew: the down projections with the memory's tables."""
    if settled.lowerings[name].name == "plugin":
        return 0
    graphs = bundle.manifest["components"][name]["graphs"]
    held = settled.precision if settled.precision in graphs else next(iter(graphs))
    size = merged_bytes(load_graph(bundle.graph(name, held)))
    return size if held == settled.precision else size * ITEM_SIZE[settled.precision] // ITEM_SIZE[held]


def _with_graphs(bundle: Bundle, settled: Settled, progress: Progress) -> Bundle:
    """The bundle with the graphs that are asked for, traced now where they are missing or keep other modules."""
    if not settled.untraced:
        return bundle
    with needing("export"):
        from ..graphs.precision import trace_again
        from ..graphs.trace import default_opset

    precision, traced = settled.precision, {}
    with work_folder(bundle.root / FOLDER) as folder:
        made = BundleWriter(folder)
        for name in settled.untraced:
            keep = settled.keep_fp32[name]
            path = trace_again(bundle, name, precision, made, progress, keep)
            traced[name] = graph_entry(str(path.relative_to(folder)), default_opset(precision), keep)
        with change(bundle.root, wait=True) as (writer, manifest):
            graphs = {name: manifest["components"][name]["graphs"] for name in traced}
            for name in traced:
                graphs[name].pop(precision, None)
            writer.forget(made.files, manifest)
            for file in made.files:
                (folder / file).replace(writer.path(file))
            for name, entry in traced.items():
                graphs[name][precision] = entry
            writer.files |= made.files
            writer.write_manifest(manifest)
    return Bundle.open(bundle.root)


def _copied(built: Built, folder: Path) -> Built:
    for path in (built.engine, built.record_path):
        shutil.copyfile(path, folder / path.name)
    return replace(built, engine=folder / built.engine.name, record_path=folder / built.record_path.name)
