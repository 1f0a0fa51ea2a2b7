"""Which modules float32 may repair, tried on the graph traced again with them."""

import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..keep_fp32 import module_of
from ..session import Arrays
from .bisect_compare import Task, compared, trace_again
from .bisect_probe import GraphPair
from .bisect_report import ComponentErrors

if TYPE_CHECKING:
    from ..models.component import Component

# A module that is kept can hand its result on to one that is not, where the error then enters: each trial adds those.
_TRIALS = 4
_NUMBER = re.compile(r"\.\d+\.")


def to_keep(task: Task, component: "Component", pair: GraphPair, judged: ComponentErrors) -> list[str]:
    """The modules that float32 may repair: those that an error enters at, or that read what a Cast has spoilt."""
    if task.precision == "fp32":
        return []
    # A module with damaged weights or edited nodes is not repaired by float32, whatever else enters there.
    beyond = {entry.module for entry in judged.entries if not entry.repairable}
    made = {node.name: node for node in pair.graph.graph.node}
    found: list[str] = []
    for entry in judged.entries:
        nodes = [made[entry.node]]
        while casts := [node for node in nodes if node.op_type == "Cast"]:
            results = {name for node in casts for name in node.output}
            nodes = [node for node in nodes if node.op_type != "Cast"]
            nodes += [node for node in pair.graph.graph.node if results.intersection(node.input)]
        found += [node.name.rsplit("/", 1)[0] for node in nodes]
    known = {module_of(weight) for weight in component.weights}
    return [module for module in dict.fromkeys(found) if module in known and module not in beyond]


def tried(
    task: Task, component: "Component", judged: ComponentErrors, modules: list[str], twin: Path, inputs: Arrays
) -> ComponentErrors:
    """Trace the graph with the modules in float32, and with those where the error then enters, until none does."""
    for _ in range(_TRIALS):
        folder = twin.parent / "trial"
        folder.mkdir()
        keep = patterns(task, component, modules)
        pair = GraphPair.read(trace_again(task, component, task.precision, keep, folder), twin)
        result = compared(task, component, pair, inputs, folder / "probes")
        shutil.rmtree(folder)
        if result.first is None and not result.unpaired:
            return replace(judged, keep_fp32=keep, repaired=True)
        more = [module for module in to_keep(task, component, pair, result) if module not in modules]
        if not more:
            break
        modules = [*modules, *more]
    return replace(judged, repaired=False)


def patterns(task: Task, component: "Component", modules: Iterable[str]) -> list[str]:
    """What the graph keeps already, and globs of the modules."""
    return [*dict.fromkeys((*task.bundle.keep_fp32(component.name, task.precision), *_globs(modules)))]


def _globs(modules: Iterable[str]) -> list[str]:
    """Globs of the modules; those that differ in the number of their layer alone become one."""
    alike: dict[str, list[str]] = {}
    for module in dict.fromkeys(modules):
        alike.setdefault(_NUMBER.sub(".*.", module), []).append(module)
    return [pattern if len(same) > 1 else same[0] for pattern, same in alike.items()]
