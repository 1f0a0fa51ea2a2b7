"""One component's graph beside the same graph in float32: where an error enters, and what is known of the cause."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from ..bundle import Bundle, BundleWriter
from ..progress import Progress
from ..session import Arrays
from .bisect_layers import Layer, by_layers, layers_of
from .bisect_probe import GraphPair, Run, chunks, errors, partners, relative_l2, run_graph
from .bisect_report import SHOWN, ComponentErrors, NodeError
from .thresholds import THRESHOLDS

if TYPE_CHECKING:
    from ..checkpoints.lazy import LazyTensor
    from ..models.component import Component

# An error less than this many times its largest input's came with the inputs.
_GROWTH = 3


@dataclass(frozen=True)
class Task:
    """What a bundle is bisected with. probes run the probing graphs of their components, ONNX Runtime those of the
    others."""

    bundle: Bundle
    precision: str
    weights: Mapping[str, "LazyTensor"]
    progress: Progress
    probes: Mapping[str, Run]

    @property
    def limit(self) -> float:
        """The relative L2 that a tensor may have."""
        return THRESHOLDS[self.precision].relative_l2


def trace_again(task: Task, component: "Component", precision: str, keep: Sequence[str], folder: Path) -> Path:
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


def compared(task: Task, component: "Component", pair: GraphPair, inputs: Arrays, folder: Path) -> ComponentErrors:
    """The component's graph beside its float32 counterpart on `inputs`; probing graphs are written into `folder`."""
    run = task.probes.get(component.name)
    if run is not None:
        return _compared_by_layers(task, component, pair, inputs, folder, run)
    total = sum(size for _, size in chunks(pair, inputs))
    with task.progress.stage(f"compare the nodes of {component.name}", total) as advance:
        found = errors(pair, inputs, task.precision, advance, folder, run_graph)
    return _judged(task, component, pair, found)


def _compared_by_layers(
    task: Task, component: "Component", pair: GraphPair, inputs: Arrays, folder: Path, run: Run
) -> ComponentErrors:
    """Engines are built for what is compared: as few as tell where the error enters."""

    def compare(layer: Layer | None, values: Sequence[str]) -> dict[str, float]:
        # What layers hand on is little: as much of it at once as memory takes.
        most = len(values) if layer is None else None
        what = f"the nodes of {component.name} {layer.name}".rstrip() if layer else f"the layers of {component.name}"
        total = sum(size for _, size in chunks(pair, inputs, values, most))
        with task.progress.stage(f"compare {what}", total) as advance:
            place = folder / (layer.name if layer else "layers")
            return errors(pair, inputs, task.precision, advance, place, run, values, most)

    found = by_layers(layers_of(pair), task.limit, compare)
    return replace(_judged(task, component, pair, found.errors, found.assumed), left=found.left)


def _judged(
    task: Task, component: "Component", pair: GraphPair, found: Mapping[str, float], assumed: Collection[str] = ()
) -> ComponentErrors:
    """assumed are values that were not compared and are taken to be over the tolerance."""
    over = {name for name, error in found.items() if error > task.limit}
    # Where fp16 overflows, a reader may still have got the float32 value: that is not how a device computes.
    felt = _felt(pair.graph, over, assumed) | {name for name in over if not isfinite(found[name])}
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
        if not over.union(assumed).intersection(node.input):
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


def _felt(model: onnx.ModelProto, over: set[str], assumed: Collection[str] = ()) -> set[str]:
    """The values over the tolerance that the graph returns, or from which the next node computes one that is. The
    mean of what is nearly centred has a large relative error, and taking it away leaves none."""
    outputs = {value.name for value in model.graph.output}
    felt = over & outputs
    for node in reversed(model.graph.node):
        # A Cast computes nothing: it hands on what reads it.
        reached = (felt if node.op_type == "Cast" else over).union(assumed)
        if reached.intersection(node.output):
            felt.update(over.intersection(node.input))
    return felt


def _explained(task: Task, component: "Component", pair: GraphPair, entry: NodeError) -> NodeError:
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


def _weight_errors(task: Task, component: "Component", pair: GraphPair, node: onnx.NodeProto) -> dict[str, float]:
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
