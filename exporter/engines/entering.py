"""Built engines become part of their bundle, if they are what was asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import Bundle, change, sha256_file
from ..errors import InputError, VerdictError
from .readback import verdict
from .source_graph import graph_digests
from .written import read_record, read_whole_recipe


@dataclass(frozen=True)
class Built:
    """An engine that was read back and found to be what its recipe asks for."""

    engine: Path
    record_path: Path
    recipe: Mapping[str, Any]
    record: Mapping[str, Any]


def judge(bundle: Bundle, recipe_path: Path) -> Built:
    """Read the engine of a recipe and its record.

    Raises InputError where something is missing or damaged, or belongs to another recipe or bundle; VerdictError with
    everything in which the engine is not what was asked for.
    """
    recipe, digest = read_whole_recipe(recipe_path)
    folder = recipe_path.parent
    engine, record_path = folder / recipe["engine"], folder / recipe["record"]
    if not engine.is_file() or not record_path.is_file():
        raise InputError(f"{folder} has no engine of {recipe['component']} yet: run build.sh there first.")
    record = read_record(record_path)
    try:
        same = recipe["source"] == graph_digests(bundle, recipe["component"], recipe["precision"])
    except InputError as lack:
        raise InputError(f"{recipe_path} was made from another bundle: {lack}") from lack
    if not same:
        raise InputError(f"{recipe_path} was made from another bundle than {bundle.root}, or before it was changed.")
    if digest != record["recipe_sha256"]:
        raise InputError(f"{engine} was built from another recipe than {recipe_path}: build it again.")
    if sha256_file(engine) != record["engine"]["sha256"]:
        raise InputError(f"{engine} is damaged: its bytes are not those of {record_path}. Copy or build it again.")
    try:
        failures = verdict(recipe, record)
    except (KeyError, IndexError) as error:
        # Each has its form, and they name inputs or dimensions that are not there.
        raise InputError(f"{recipe_path} or its record is damaged: {error!r}. Build the engine again.") from error
    if failures:
        lines = "".join(f"\n- {failure}" for failure in failures)
        raise VerdictError(f"the engine of {recipe['component']} is not what was asked for:{lines}")
    return Built(engine, record_path, recipe, record)


def enter(root: Path, engines: Sequence[Built]) -> list[dict[str, Any]]:
    """Move judged engines, which lie on the bundle's disk, into it; returns their entries in the manifest.

    An engine of the same component, precision, lowering, target, version and GPU is replaced, and those whose file is
    missing are forgotten. Raises InputError where a graph is no longer the one that its engine was built from.
    """
    entries = [_entry(built) for built in engines]
    names = {entry["file"] for entry in entries}
    with change(root, wait=True) as (writer, manifest):
        bundle = Bundle.open(root)
        for built in engines:
            _require_its_graph(bundle, built.recipe)
        gone = names.union(bundle.missing)
        replaced = [entry for entry in manifest["engines"] if entry["file"] in gone]
        manifest["engines"] = [entry for entry in manifest["engines"] if entry["file"] not in gone]
        writer.forget([entry[kind] for entry in replaced for kind in ("file", "layers")], manifest)
        for built, entry in zip(engines, entries, strict=True):
            built.engine.replace(writer.path(entry["file"]))
            built.record_path.replace(writer.path(entry["layers"]))
            writer.record(entry["file"], built.record["engine"]["sha256"])
            writer.record(entry["layers"])
        manifest["engines"] += entries
        writer.write_manifest(manifest)
    return entries


def _require_its_graph(bundle: Bundle, recipe: Mapping[str, Any]) -> None:
    """Others may change the bundle until it is held."""
    component, precision = recipe["component"], recipe["precision"]
    if recipe["source"] != graph_digests(bundle, component, precision):
        raise InputError(
            f"the {precision} graph of {component} was replaced in {bundle.root} while its engine was built or copied: "
            "build it again."
        )


def _entry(built: Built) -> dict[str, Any]:
    """The manifest's entry of an engine."""
    recipe, record = built.recipe, built.record
    gpu = f"sm{record['gpu']['sm']}" if record["gpu"] else "any"
    folder = f"engines/{recipe['target']}-{record['tensorrt']}-{gpu}"
    return {
        "component": recipe["component"],
        "file": f"{folder}/{built.engine.name}",
        "layers": f"{folder}/{built.record_path.name}",
        **{key: recipe[key] for key in ("source", "precision", "lowering", "target")},
        **{key: record[key] for key in ("tensorrt", "flavor", "gpu", "plugin")},
        **{key: recipe[key] for key in ("inputs", "outputs", "ranges", "cache", "profiles")},
        "seconds": record["seconds"],
        **({"activation": record["activation"]} if "activation" in record else {}),
        **({"keep_fp32": recipe["keep_fp32"]["patterns"]} if recipe.get("keep_fp32") else {}),
    }
