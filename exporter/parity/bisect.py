"""Where a bundle's graph leaves its tolerance: the first component, module and node, in ONNX Runtime or TensorRT.

Each component is traced again in float32 and both graphs get the golden inputs, so that a fault in one component does
not hide one in the next. Nodes have the same names in all precisions, Casts apart: their results are compared one by
one.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import Bundle
from ..disk import work_folder
from ..engines.choice import choose_engines
from ..engines.runtime import process_runtime
from ..engines.targets import target_named
from ..errors import EnvironmentLack, InputError
from ..packages import needing
from ..progress import Progress
from ..session import Arrays
from .bisect_compare import Task, compared, trace_again
from .bisect_probe import GraphPair, Run
from .bisect_repair import patterns, to_keep, tried
from .bisect_report import SHOWN, BisectReport, ComponentErrors
from .engine_probe import EngineProbe
from .samples import read_cases
from .thresholds import THRESHOLDS

if TYPE_CHECKING:
    from ..checkpoints.lazy import LazyTensor
    from ..checkpoints.source import Source
    from ..models.component import Component

_OWN_WEIGHTS = (
    "the reference has the bundle's own weights: a damaged weight is in both graphs and cannot be seen. Give --source "
    "to compare with the official files."
)
_HALF = (
    "ONNX Runtime's CPU computes fp16 nodes in float32 and does not round between all of them: what only true half "
    "arithmetic loses is not seen here, except where a result is beyond the range of fp16."
)
_PROBES = (
    "TensorRT ran the nodes of the published graphs in engines that hand out every result. Where nothing leaves the "
    "tolerance here and `check` fails, the fault lies in the lowering, the plugin or a fusion of the bundle's engine."
)


def require_plain(precision: str | None) -> None:
    """Raise InputError for a quantized precision: every product of it leaves the tolerance by design."""
    if precision and THRESHOLDS[precision].quality:
        raise InputError(
            f"{precision} is not bisected: reports/calibration.{precision}.json in the bundle ranks its layers by the "
            "damage that each one does, and the graphs it was made from are bisected with --precision of theirs."
        )


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
    require_plain(precision)
    probes: dict[str, Run] = {}
    if backend == "tensorrt":
        # Trusted: of the bundle's own engines none is loaded.
        entries = choose_engines(bundle, precision, process_runtime().environment, trusted=True)
        if any(target_named(entry["target"]).weakly_typed for entry in entries.values()):
            raise InputError(
                "engines for tensorrt-8 cannot be bisected: a probing engine is built as its graph is typed, and "
                "TensorRT 8 does not follow that. Bisect the graphs, with --backend onnxruntime."
            )
        probes = {name: EngineProbe(entry).run for name, entry in entries.items()}
    elif precision == "bf16":
        raise EnvironmentLack(
            "a bf16 graph cannot be bisected here: ONNX Runtime's CPU has no bfloat16 kernels. Export the source in "
            "fp32 or fp16 and bisect that bundle."
        )
    with needing("export"):
        from ..models.family import components_of
    components = components_of(bundle.manifest["family"], bundle.manifest["config"])
    graphs = {component.name: bundle.graph(component.name, precision) for component in components}
    task = Task(bundle, precision, _weights(bundle, source, components), progress or Progress(), probes)
    against = f"the model traced again in float32, on {'the source' if source else 'the bundle'}'s weights"
    report = BisectReport(str(bundle.root), precision, task.limit, against)
    inputs = _inputs(task, components)
    for component in components:
        # Beside the bundle, on the same disk: links to its weights can be made there.
        with work_folder(bundle.root.resolve()) as folder:
            pair = GraphPair.read(graphs[component.name], _write_twin(task, component, folder))
            found = _component_errors(task, component, pair, inputs[component.name], report)
        report.components.append(found)
        if found.left:
            report.notes.append(f"{component.name}: an error enters at {', '.join(found.left)} too: not looked into")
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


def _inputs(task: Task, components: Sequence["Component"]) -> dict[str, Arrays]:
    """The golden inputs of every component, or random ones where the bundle was exported without."""
    cases = [case for case in read_cases(task.bundle) if case.name == "rows"]
    if not cases:
        from ..models.reference import TorchReference
        from .anew import random_cases

        # The second shape of each component: several rows, some of them padded.
        found = random_cases(TorchReference(components, task.weights), components)
        cases = list(islice(found, len(components), 2 * len(components)))
    return {case.component: case.inputs for case in cases}


def _component_errors(
    task: Task, component: "Component", pair: GraphPair, inputs: Arrays, report: BisectReport
) -> ComponentErrors:
    judged = compared(task, component, pair, inputs, pair.twin_path.parent / "probes")
    modules = to_keep(task, component, pair, judged)
    if not modules:
        return judged
    judged = replace(judged, keep_fp32=patterns(task, component, modules))
    try:
        return tried(task, component, judged, modules, pair.twin_path, inputs)
    except (InputError, EnvironmentLack) as error:
        report.notes.append(f"--keep-fp32 was not tried for {component.name}: {error}")
        return judged


def _write_twin(task: Task, component: "Component", folder: Path) -> Path:
    """The component in float32, whose nodes the tested graph is to share."""
    return trace_again(task, component, "fp32", (), folder)
