"""What is in an engine: from the record that was written with it, else from the engine itself where a GPU is."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...plugins.loader import find_library
from ..bundle import MANIFEST, Bundle, sha256_file
from ..child_process import ChildFailed, ask_module
from ..engines import build_engine
from ..engines.source_graph import is_of_its_graph
from ..engines.targets import TARGETS
from ..engines.tensorrt_module import target_of
from ..engines.written import read_record
from ..errors import EnvironmentLack, InputError, ToolError
from .engine_summary import summary

SUFFIX = ".engine"
_ASKED = ("component", "precision", "lowering", "ranges", "cache")
_TIMEOUT_S = 600.0
# Any engine's head is longer, and all tags that the libraries know end so: ftrt, ptrt, qtrt, vtrt.
_SMALLEST, _TAG_END = 64, b"trt"


def report_engine(path: Path, verify: bool = False) -> dict[str, Any]:
    """Report on an engine, given as its file or as its record, as plain JSON data.

    component, precision, lowering, ranges and cache are None where neither a bundle nor the recipe beside the engine
    says them; stale, whether the bundle's graph has been replaced since, is None outside a bundle. The rest is
    `summary`, with the dims of inputs and outputs by name where those are known. verify compares the engine's SHA-256
    with the record's.

    Raises InputError where file and record are damaged or not of each other, or the file is plainly no engine;
    EnvironmentLack where there is no record and the engine cannot be read here.
    """
    if path.suffix != SUFFIX:
        record = read_record(path)
        engine = path.with_name(record["engine"]["file"])
    else:
        engine, path = path, path.with_suffix(".json")
        if not path.is_file():
            return _described(engine, None, {}, _read_engine(engine, path))
        record = read_record(path)
    if engine.is_file():
        _check_same(engine, path, record["engine"], verify)
    elif verify:
        raise InputError(f"{engine} does not exist: there is nothing to verify.")
    bundle, entry = _bundle_entry(engine)
    if bundle and entry:
        return _described(engine, path, entry, record, not is_of_its_graph(entry, bundle))
    return _described(engine, path, _recipe_beside(path, record), record)


def report_engines(bundle: Bundle) -> list[dict[str, Any]]:
    """The same for all engines of a bundle whose files are there."""
    found, missing = [], set(bundle.missing)
    for entry in bundle.manifest["engines"]:
        if missing & {entry["file"], entry["layers"]}:
            continue
        record = bundle.path(entry["layers"])
        stale = not is_of_its_graph(entry, bundle)
        found.append(_described(bundle.path(entry["file"]), record, entry, read_record(record), stale))
    return found


def _described(
    engine: Path, path: Path | None, asked: Mapping[str, Any], record: Mapping[str, Any], stale: bool | None = None
) -> dict[str, Any]:
    try:
        found = summary(record, asked.get("cache"))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path or engine} is damaged: {error!r} in what it says of the engine.") from error
    if not asked:
        # Which copies of a cache were asked for is not known.
        found["cache_copies"] = None
    for kind in ("inputs", "outputs"):
        named = {port["name"]: port["dims"] for port in asked.get(kind, ())}
        found[kind] = [{**port, "dims": named.get(port["name"], port["dims"])} for port in found[kind]]
    return {
        "path": str(engine),
        "record": str(path) if path else None,
        **{key: asked.get(key) for key in _ASKED},
        "stale": stale,
        "target": target_of(record.get("module", ""), record.get("tensorrt", "")),
        **found,
        "activation": record.get("activation"),
    }


def _check_same(engine: Path, path: Path, listed: Mapping[str, Any], verify: bool) -> None:
    same = engine.stat().st_size == listed["size"] and not (verify and sha256_file(engine) != listed["sha256"])
    if not same:
        raise InputError(f"{engine} is not the engine that {path.name} speaks of: build or copy both again.")


def _bundle_entry(engine: Path) -> tuple[Bundle | None, Mapping[str, Any] | None]:
    """The bundle that an engine lies in, and what its manifest says of it."""
    # As the builder puts it: <bundle>/engines/<target>/<file>.
    folder = engine.absolute().parent.parent
    if folder.name != "engines" or not (folder.parent / MANIFEST).is_file():
        return None, None
    bundle = Bundle.open(folder.parent)
    name = engine.absolute().relative_to(folder.parent).as_posix()
    return bundle, next((entry for entry in bundle.manifest["engines"] if entry["file"] == name), None)


def _recipe_beside(path: Path, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe that the engine was built from, where it still lies beside it; else nothing."""
    try:
        recipe, digest = build_engine.read_recipe(path.with_suffix(".recipe.json"))
    except build_engine.EngineError:
        return {}
    return recipe if digest == record["recipe_sha256"] else {}


def _read_engine(engine: Path, path: Path) -> dict[str, Any]:
    """What TensorRT's inspector says of an engine, in the form of a record."""
    _require_engine(engine)
    library, why_not = _library()
    plugin = ["--plugin", str(library)] if library else []
    modules = list(dict.fromkeys(target.module for target in TARGETS.values()))
    said: dict[str, ChildFailed] = {}
    for module in [one for one in modules if importlib.util.find_spec(one)] or modules[:1]:
        try:
            found = ask_module(
                build_engine.__name__, "info", str(engine), "--module", module, *plugin, timeout=_TIMEOUT_S
            )
        except ChildFailed as failure:
            said[module] = failure
            continue
        # Which layers are products only the network could tell that the engine was built from.
        layers = [{**layer, "matrix": False} for layer in found["layers"]]
        file = {"file": engine.name, "size": engine.stat().st_size, "sha256": None}
        unknown = dict.fromkeys(("seconds", "plugin"))
        return {**unknown, **found, "layers": layers, "engine": file, "module": module, "read_from": "inspector"}
    # Where it can be read, TensorRT alone says whether it is one.
    _require_engine(engine, by_tag=True)
    reasons = "; ".join(f"{module}: {failure}" for module, failure in said.items())
    raise EnvironmentLack(
        f"{engine} has no record beside it ({path.name}), and the engine itself cannot be read here: {reasons} "
        f"{why_not}Inspect it where a GPU is, or copy its record to it."
    )


def _require_engine(engine: Path, by_tag: bool = False) -> None:
    """Raise InputError where a file is no engine of any TensorRT: it is too short, or by_tag, it does not begin as
    one."""
    size = engine.stat().st_size
    with engine.open("rb") as file:
        begins = file.read(8)
    if size < _SMALLEST:
        what = f"is no engine: it has {size} bytes" if size else "is empty"
    elif by_tag and begins[1:4] != _TAG_END:
        what = f"is no engine: it begins with {begins!r}"
    else:
        return
    raise InputError(f"{engine} {what}. Build or copy it again.")


def _library() -> tuple[Path | None, str]:
    """The plugin library that an engine may need, and why one that was named cannot be taken."""
    try:
        return find_library(), ""
    except ToolError as error:
        return None, f"{error} "
