"""Which of a bundle's engines runs each component on this machine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..bundle import Bundle
from ..errors import EnvironmentLack, InputError
from .preflight import EngineFile, Environment, problems, refusal
from .request import memory_operators
from .source_graph import is_of_its_graph

LOWERINGS = ("plugin", "native")
Entry = Mapping[str, Any]


def choose_engines(
    bundle: Bundle,
    precision: str,
    here: Callable[[Entry], Environment],
    trusted: bool = False,
    lowering: str | None = None,
) -> dict[str, Entry]:
    """For each component that has engines in `precision`, the entry of the one that runs; all are of one target.

    That is the last one built that can be loaded here, of the target whose engines were built last among those where
    every component has one. lowering "plugin" or "native" takes only such engines, for components that look memory up.
    here gives the environment of an entry. Raises InputError where the bundle has no such engine or has lost it,
    EnvironmentLack with the problems of each one where a component has some and none can be loaded.
    """
    entries = [entry for entry in bundle.manifest["engines"] if entry["precision"] == precision]
    if not entries:
        others = sorted({entry["precision"] for entry in bundle.manifest["engines"]})
        known = f"it has engines in {', '.join(others)}: give --precision" if others else "it has no engines"
        raise InputError(
            f"{bundle.root} has no {precision} engine; {known}. Build them with `memvp-export trt {bundle.root} "
            f"--{precision}`."
        )
    entries = _present(entries, bundle)
    names = list(dict.fromkeys(entry["component"] for entry in entries))
    if lowering is not None:
        entries = _lowered(entries, lowering, bundle)
    refusals: list[str] = []
    for target in dict.fromkeys(entry["target"] for entry in reversed(entries)):
        of_target = [entry for entry in entries if entry["target"] == target]
        chosen = {}
        for name in names:
            of_component = [entry for entry in of_target if entry["component"] == name]
            found, why_not = _loadable(of_component, bundle, here, trusted)
            if found:
                chosen[name] = found
            refusals += why_not if of_component else [f"there is no {precision} engine of {name} for {target}"]
        if len(chosen) == len(names):
            return chosen
    raise EnvironmentLack("\n".join(refusals))


def described(entries: Mapping[str, Entry]) -> str:
    """The choice in words: target, and of each component the lowering and the file."""
    target = next(iter(entries.values()))["target"]
    files = ", ".join(f"{entry['file']} ({entry['lowering']})" for entry in entries.values())
    return f"the engines that run, for {target}: {files}"


def _present(entries: Sequence[Entry], bundle: Bundle) -> list[Entry]:
    """The engines whose files are there and whose graphs are still those they were built from; InputError where that is
    none of a component's."""
    missing = bundle.missing
    kept = [entry for entry in entries if entry["file"] not in missing and is_of_its_graph(entry, bundle)]
    for entry in entries:
        if all(one["component"] != entry["component"] for one in kept):
            path = bundle.path(entry["file"])
            raise InputError(
                f"{path} was built from another {entry['precision']} graph of {entry['component']} than {bundle.root} "
                f"has now. Build it again with `memvp-export trt {bundle.root} --{entry['precision']}`."
            )
    return kept


def _lowered(entries: Sequence[Entry], lowering: str, bundle: Bundle) -> list[Entry]:
    """The engines of a lowering, and those of components that have no memory lookups to lower."""
    if lowering not in LOWERINGS:
        raise InputError(f"the lowering is {' or '.join(LOWERINGS)}, not {lowering!r}.")
    found = []
    for name in dict.fromkeys(entry["component"] for entry in entries):
        of_component = [entry for entry in entries if entry["component"] == name]
        kept = [entry for entry in of_component if entry["lowering"] == lowering]
        if not kept and memory_operators(bundle, name):
            plugin = "on" if lowering == "plugin" else "off"
            raise InputError(
                f"{bundle.root} has no {of_component[0]['precision']} engine of {name} with {lowering} lowering. Build "
                f"one with `memvp-export trt {bundle.root} --{of_component[0]['precision']} --plugin {plugin}`."
            )
        found += kept or of_component
    # In the order they were built in.
    return [entry for entry in entries if entry in found]


def _loadable(
    entries: Sequence[Entry], bundle: Bundle, here: Callable[[Entry], Environment], trusted: bool
) -> tuple[Entry | None, list[str]]:
    """The last of the engines of a component that can be loaded, or why none can."""
    refusals = []
    for entry in reversed(entries):
        file = EngineFile(bundle.manifest["files"][entry["file"]]["size"])
        found = problems(entry, here(entry), file, trusted)
        if not found:
            return entry, []
        refusals.append(refusal(entry, found))
    return None, refusals
