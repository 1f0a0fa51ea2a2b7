"""Where a bundle's graph leaves its tolerance: the first component, module and node, in ONNX Runtime or TensorRT.

Each component is traced again in float32 and both graphs get the golden inputs, so that a fault in one component does
not hide one in the next. Nodes have the same names in all precisions, Casts apart: their results are compared one by
one.
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from ..bundle import Bundle, BundleWriter
from ..engines.choice import choose_engines
from ..engines.runtime import process_runtime
from ..errors import EnvironmentLack, InputError, MissingPackage
from ..keep_fp32 import module_of
from ..partial import partial_folder, remove_leftovers
from ..progress import Progress
from ..session import Arrays
from .bisect_probe import GraphPair, Run, chunks, errors, partners, relative_l2, run_graph
from .engine_probe import EngineProbe
from .samples import read_cases
from .thresholds import THRESHOLDS

if TYPE_CHECKING:
    from ..checkpoints.lazy import LazyTensor
    from ..checkpoints.source import Source
    from ..models.component import Component

SHOWN = 5
# A module that is kept can hand its result on to one that is not, where the error then enters: each trial adds those.
_TRIALS = 4
# An error less than this many times its largest input's came with the inputs.
_GROWTH = 3
_NUMBER = re.compile(r"\.\d+\.")
_OWN_WEIGHTS = (
    "the reference has the bundle's own weights: a damaged weight is in both graphs and cannot be seen. Give --source "
    "to compare with the official files."
)
_HALF = (
    "ONNX Runtime's CPU computes fp16 nodes in float32 and does not round between all of them: what only true half "
    "arithmetic loses is not seen here, except where a result is beyond the range of fp16."
)


_TRIED = {
    None: "a suggestion, not tried",
    True: "tried, with these nothing leaves the tolerance",
    False: "tried, and not enough",
}
_PROBES = (
    "TensorRT ran the nodes of the published graphs in engines that hand out every result. Where nothing leaves the "
    "tolerance here and `check` fails, the fault lies in the lowering, the plugin or a fusion of the bundle's engine."
)


@dataclass(frozen=True)
class NodeError:
    """A node whose output is over the tolerance: relative L2 of its worst output, and of each input and weight that
    could be compared. problem says what is known of the cause; a repairable one may yield to float32."""

    node: str
    module: str
    op: str
    error: float
    inputs: dict[str, float]
    weights: dict[str, float] = field(default_factory=dict)
    problem: str = ""
    repairable: bool = True


@dataclass(frozen=True)
class ComponentErrors:
    """What was found in one component.

    entries are the nodes whose inputs are within the tolerance while their output is not, in order; `first` is the
    first of them. modules holds the worst ones by error. faded are nodes over the tolerance whose readers are all
    within it again. keep_fp32 are patterns of modules that float32 may repair; repaired says whether nothing left the
    tolerance when the graph was traced again with them, None where that was not tried.
    """

    component: str
    compared: int
    entries: list[NodeError]
    modules: dict[str, float]
    faded: dict[str, float]
    keep_fp32: list[str]
    unpaired: list[str]
    repaired: bool | None = None

    @property
    def first(self) -> NodeError | None:
        """Where the error enters first; None where nothing leaves the tolerance."""
        return self.entries[0] if self.entries else None


@dataclass
class BisectReport:
    """What `bisect` found. limit is the relative L2 that a tensor may have."""

    bundle: str
    precision: str
    limit: float
    reference: str
    components: list[ComponentErrors] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all tensors were compared and none leaves the tolerance."""
        return bool(self.components) and not any(part.first or part.unpaired for part in self.components)

    @property
    def first(self) -> NodeError | None:
        """The first node of the first component that leaves the tolerance."""
        return next((part.first for part in self.components if part.first), None)

    @property
    def verdict(self) -> str:
        """One line: the first node, or that there is none."""
        for part in self.components:
            if part.first:
                return f"{part.component}: the error enters at {part.first.node} ({_figure(part.first.error)})"
        if any(part.unpaired for part in self.components):
            return "nothing that could be compared leaves the tolerance, but some nodes could not"
        return f"nothing leaves the tolerance of {_figure(self.limit)}"

    def to_dict(self) -> dict[str, Any]:
        """JSON data; figures that are not finite, which JSON cannot say, are None."""
        parts = [{**asdict(part), "first": part.first and part.first.node} for part in self.components]
        return _plain({**asdict(self), "components": parts, "passed": self.passed, "verdict": self.verdict})


def bisect(
    bundle: Bundle,
    precision: str | None = None,
    source: "Source | None" = None,
    progress: Progress | None = None,
    backend: str = "onnxruntime",
) -> BisectReport:
    """Name the first node of each component's graph whose output leaves the tolerance of its precision.

    With the backend tensorrt the nodes run in probing engines, which are built from the graphs with what is compared as
    further outputs; the bundle must have engines in the precision that can be loaded here.

    precision names one of the bundle's graphs (default: the bundle's own). The reference has the weights of `source`,
    which must be what the bundle was made from, or the bundle's own. The float32 graph of one component at a time is
    written beside the bundle and removed. Raises InputError for another source or graphs that cannot be run,
    EnvironmentLack for bf16 graphs in ONNX Runtime, a machine that cannot run engines, a full disk or a folder that
    cannot be written, MissingPackage without torch.
    """
    precision = precision or bundle.manifest["precision"]
    probes: dict[str, Run] = {}
    if backend == "tensorrt":
        # Trusted: of the bundle's own engines none is loaded.
        entries = choose_engines(bundle, precision, process_runtime().environment, trusted=True)
        probes = {name: EngineProbe(entry).run for name, entry in entries.items()}
    elif precision == "bf16":
        raise EnvironmentLack(
            "a bf16 graph cannot be bisected here: ONNX Runtime's CPU has no bfloat16 kernels. Export the source in "
            "fp32 or fp16 and bisect that bundle."
        )
    try:
        from ..models.family import components_of
    except ImportError as error:
        raise MissingPackage("torch", "export") from error
    components = components_of(bundle.manifest["family"], bundle.manifest["config"])
    graphs = {component.name: bundle.graph(component.name, precision) for component in components}
    task = _Task(bundle, precision, _weights(bundle, source, components), progress or Progress(), probes)
    against = f"the model traced again in float32, on {'the source' if source else 'the bundle'}'s weights"
    report = BisectReport(str(bundle.root), precision, task.limit, against)
    inputs = _inputs(task, components)
    for component in components:
        with _scratch(bundle) as folder:
            found = _component_errors(task, component, graphs[component.name], inputs[component.name], folder)
        report.components.append(found)
        if found.unpaired:
            report.notes.append(
                f"{component.name}: {len(found.unpaired)} nodes are not in the graph traced again and were not "
                f"compared ({', '.join(found.unpaired[:SHOWN])}): the graph was edited"
            )
    if source is None and precision == bundle.manifest["precision"]:
        report.notes.append(_OWN_WEIGHTS)
    if backend == "tensorrt":
        report.notes.append(_PROBES)
    elif precision == "fp16":
        report.notes.append(_HALF)
    return report


def lines(report: BisectReport) -> list[str]:
    """The report as text to print; the last line is the verdict."""
    text = [f"{report.bundle} in {report.precision}, limit {_figure(report.limit)}, against {report.reference}"]
    for part in report.components:
        if part.first is None:
            text.append(f"{part.component}: {part.compared} tensors, nothing leaves the tolerance")
        else:
            text += _component_lines(part, part.first)
        if part.faded:
            shown = _listed(part.faded.items())
            text.append(f"  over the tolerance, while all that reads them is within ({len(part.faded)}): {shown}")
    text += [f"note: {note}" for note in report.notes]
    return [*text, report.verdict]


def _component_lines(part: ComponentErrors, first: NodeError) -> list[str]:
    text = [
        f"{part.component}: the error enters at {first.node}",
        f"  module {first.module}, operator {first.op}, relative L2 {_figure(first.error)}",
    ]
    text += [f"  its input {name}: {_figure(error)}" for name, error in first.inputs.items()]
    text += [f"  its weight {name}: {_figure(error)}" for name, error in first.weights.items()]
    if first.problem:
        text.append(f"  {first.problem}")
    if more := part.entries[1:]:
        shown = _listed((entry.node, entry.error) for entry in more)
        text.append(f"  further on, an error enters anew at {len(more)}: {shown}")
    text.append(f"  worst modules: {_listed(part.modules.items())}")
    if part.keep_fp32:
        patterns = " ".join(f"--keep-fp32 '{pattern}'" for pattern in part.keep_fp32)
        text.append(f"  {_TRIED[part.repaired]}: {patterns}")
    return text


def _listed(errors: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {_figure(error)}" for name, error in islice(errors, SHOWN))


def _figure(error: float) -> str:
    return f"{error:.1e}" if isfinite(error) else "not finite"


@dataclass(frozen=True)
class _Task:
    bundle: Bundle
    precision: str
    weights: Mapping[str, "LazyTensor"]
    progress: Progress
    # By component; where there is none, ONNX Runtime runs the probing graphs.
    probes: Mapping[str, Run]

    @property
    def limit(self) -> float:
        return THRESHOLDS[self.precision].relative_l2


def _weights(bundle: Bundle, source: "Source | None", components: Sequence["Component"]) -> dict[str, "LazyTensor"]:
    from ..graphs.stored import stored_weights
    from ..models.component import constants_of
    from ..models.family import load

    tensors: dict[str, LazyTensor] = {}
    if source is None:
        for component in components:
            tensors |= stored_weights(bundle.graph(component.name), component)
    else:
        model = load(source)
        if model.family != bundle.manifest["family"] or model.config.to_dict() != bundle.manifest["config"]:
            raise InputError(f"{bundle.root} was not made from this source: their configs differ.")
        tensors |= model.weights
    return {**tensors, **constants_of(components)}


def _inputs(task: _Task, components: Sequence["Component"]) -> dict[str, Arrays]:
    """The golden inputs of every component, or random ones where the bundle was exported without."""
    cases = [case for case in read_cases(task.bundle) if case.name == "rows"]
    if not cases:
        from ..models.reference import TorchReference
        from .anew import random_cases

        # The second shape of each component: several rows, some of them padded.
        found = random_cases(TorchReference(components, task.weights), components)
        cases = list(islice(found, len(components), 2 * len(components)))
    return {case.component: case.inputs for case in cases}


@contextmanager
def _scratch(bundle: Bundle) -> Iterator[Path]:
    """A folder beside the bundle: on the same disk, where links to its weights can be made."""
    root = bundle.root.resolve()
    remove_leftovers(root)
    try:
        with partial_folder(root) as folder:
            yield folder
    except PermissionError as error:
        raise EnvironmentLack(f"{root.parent} cannot be written: {error.strerror}.") from error


def _component_errors(
    task: _Task, component: "Component", graph: Path, inputs: Arrays, folder: Path
) -> ComponentErrors:
    pair = GraphPair.read(graph, _write_twin(task, component, folder))
    judged = _compared(task, component, pair, inputs, folder / "probes")
    modules = _to_keep(task, component, pair, judged)
    if not modules:
        return judged
    judged = replace(judged, keep_fp32=_patterns(task, component, modules))
    try:
        return _tried(task, component, judged, modules, pair.twin_path, inputs)
    except (InputError, EnvironmentLack) as error:
        task.progress.note(f"--keep-fp32 was not tried for {component.name}: {error}")
        return judged


def _compared(task: _Task, component: "Component", pair: GraphPair, inputs: Arrays, folder: Path) -> ComponentErrors:
    total = sum(size for _, size in chunks(pair, inputs))
    with task.progress.stage(f"compare the nodes of {component.name}", total) as advance:
        run = task.probes.get(component.name, run_graph)
        found = errors(pair, inputs, task.precision, advance, folder, run)
    return _judged(task, component, pair, found)


def _tried(
    task: _Task, component: "Component", judged: ComponentErrors, modules: list[str], twin: Path, inputs: Arrays
) -> ComponentErrors:
    """Trace the graph with the modules in float32, and with those where the error then enters, until none does."""
    for _ in range(_TRIALS):
        folder = twin.parent / "trial"
        folder.mkdir()
        keep = _patterns(task, component, modules)
        pair = GraphPair.read(_write_graph(task, component, task.precision, keep, folder), twin)
        result = _compared(task, component, pair, inputs, folder / "probes")
        shutil.rmtree(folder)
        if result.first is None and not result.unpaired:
            return replace(judged, keep_fp32=keep, repaired=True)
        more = [module for module in _to_keep(task, component, pair, result) if module not in modules]
        if not more:
            break
        modules = [*modules, *more]
    return replace(judged, repaired=False)


def _write_twin(task: _Task, component: "Component", folder: Path) -> Path:
    """The component in float32, whose nodes the tested graph is to share."""
    return _write_graph(task, component, "fp32", (), folder)


def _write_graph(task: _Task, component: "Component", precision: str, keep: Sequence[str], folder: Path) -> Path:
    """The component traced again, on the reference's weights and in the opset of the tested graph."""
    from ..graphs.publish import write_graph
    from ..graphs.trace import check_opset, trace
    from ..graphs.weights import data_size
    from ..plan import require_room

    opset = task.bundle.manifest["components"][component.name]["graphs"][task.precision]["opset"]
    check_opset(opset, precision)
    what = f"with {', '.join(keep)} in float32" if keep else "in float32"
    with task.progress.stage(f"trace {component.name} {what}"):
        model = trace(component, precision, opset, keep)
    require_room(data_size(model), folder)
    return write_graph(model, task.weights, BundleWriter(folder), f"{component.name}.onnx", task.progress)


def _judged(task: _Task, component: "Component", pair: GraphPair, found: Mapping[str, float]) -> ComponentErrors:
    over = {name for name, error in found.items() if error > task.limit}
    # Where fp16 overflows, a reader may still have got the float32 value: that is not how a device computes.
    felt = _felt(pair.graph, over) | {name for name in over if not isfinite(found[name])}
    entries: list[NodeError] = []
    modules: dict[str, float] = {}
    faded: dict[str, float] = {}
    for node in pair.graph.graph.node:
        error = max((found[name] for name in node.output if name in over), default=0.0)
        module = node.name.rsplit("/", 1)[0]
        if not error:
            continue
        if not felt.intersection(node.output):
            faded[node.name] = error
            continue
        modules[module] = max(error, modules.get(module, 0.0))
        if not over.intersection(node.input):
            known = {name: found[name] for name in node.input if name in found}
            entries.append(NodeError(node.name, module, node.op_type, error, known))
    # Weights are read for what is shown only.
    entries[:SHOWN] = [_explained(task, component, pair, entry) for entry in entries[:SHOWN]]
    return ComponentErrors(
        component.name,
        len(found),
        entries,
        dict(sorted(modules.items(), key=lambda item: -item[1])[:SHOWN]),
        dict(sorted(faded.items(), key=lambda item: -item[1])),
        [],
        pair.unpaired,
    )


def _to_keep(task: _Task, component: "Component", pair: GraphPair, judged: ComponentErrors) -> list[str]:
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


def _felt(model: onnx.ModelProto, over: set[str]) -> set[str]:
    """The values over the tolerance that the graph returns, or from which the next node computes one that is. The
    mean of what is nearly centred has a large relative error, and taking it away leaves none."""
    outputs = {value.name for value in model.graph.output}
    felt = over & outputs
    for node in reversed(model.graph.node):
        # A Cast computes nothing: it hands on what reads it.
        reached = felt if node.op_type == "Cast" else over
        if reached.intersection(node.output):
            felt.update(over.intersection(node.input))
    return felt


def _explained(task: _Task, component: "Component", pair: GraphPair, entry: NodeError) -> NodeError:
    """The entry with the errors of its weights and what is known of the cause."""
    node = next(node for node in pair.graph.graph.node if node.name == entry.node)
    weights = _weight_errors(task, component, pair, node)
    bad = [name for name, error in weights.items() if error > task.limit]
    edit = _edit(pair, node)
    worst = max(entry.inputs.values(), default=0.0)
    if edit:
        problem = f"the graph was edited: {edit}"
    elif bad:
        problem = f"the weight {bad[0]} is not that of the reference: it is damaged"
    elif not isfinite(entry.error):
        problem = f"values are beyond the range of {task.precision}, or of another shape"
    elif entry.error < _GROWTH * worst:
        problem = "its inputs are close to the limit already: the error grew through the nodes before it"
    else:
        problem = ""
    return replace(entry, weights=weights, problem=problem, repairable=not (edit or bad))


def _weight_errors(task: _Task, component: "Component", pair: GraphPair, node: onnx.NodeProto) -> dict[str, float]:
    from ..graphs.stored import stored_weights

    names = [name for name in node.input if name in component.weights]
    stored = stored_weights(pair.path, component) if names else {}
    found = {}
    for name in names:
        actual, expected = stored[name].load().float(), task.weights[name].load().float()
        found[name] = relative_l2(actual.numpy(), expected.numpy(), None)
    return found


def _edit(pair: GraphPair, node: onnx.NodeProto) -> str:
    """In what a node is not the one of the graph traced again; empty where it is the same."""
    twin = next((other for other in pair.twin.graph.node if other.name == node.name), None)
    if twin is None or node.op_type == "Cast":
        return ""
    if twin.op_type != node.op_type:
        return f"{node.name} is {node.op_type}, not {twin.op_type}"
    own, twins = partners(pair.twin, pair.twin), {tensor.name for tensor in pair.twin.graph.initializer}
    # Nameless constants are numbered by each trace anew.
    given = [pair.partners.get(name, "") for name in node.input]
    wanted = ["" if name in twins else own.get(name, "") for name in twin.input]
    if given != wanted:
        return f"{node.name} reads {', '.join(node.input)}, not {', '.join(twin.input)}"
    first, second = (sorted(a.SerializeToString() for a in each.attribute) for each in (node, twin))
    return f"the attributes of {node.name} differ" if first != second else ""


def _patterns(task: _Task, component: "Component", modules: Iterable[str]) -> list[str]:
    """What the graph keeps already, and globs of the modules."""
    return [*dict.fromkeys((*task.bundle.keep_fp32(component.name, task.precision), *_globs(modules)))]


def _globs(modules: Iterable[str]) -> list[str]:
    """Globs of the modules; those that differ in the number of their layer alone become one."""
    alike: dict[str, list[str]] = {}
    for module in dict.fromkeys(modules):
        alike.setdefault(_NUMBER.sub(".*.", module), []).append(module)
    return [pattern if len(same) > 1 else same[0] for pattern, same in alike.items()]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
