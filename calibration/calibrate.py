"""bundle and data -> quantized graphs: the whole of `memvp-export calibrate`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..exporter.bundle import Bundle, opened
from ..exporter.disk import work_folder
from ..exporter.inspection.values import load_graph
from ..exporter.progress import Progress
from .collect import Resume
from .find_scales import Task, find_scales
from .graphs32 import FOLDER, graphs_in
from .layers import Layer, find_layers
from .publish import enter, write_quantized
from .report import Report, build_report
from .samples import Data, Samples, open_samples
from .scales import Scales, model_identity
from .sensitivity import LayerDamage, leave_out_for, rank, require_answers
from .settings import Settings, choices_of, settle
from .synthetic import check_synthetic, synthetic_requests


def calibrate(
    bundle: Bundle | Path | str,
    data: Data = None,
    precision: str = "int8",
    method: str = "mse",
    smooth_quant: bool = True,
    samples: int | None = None,
    seed: int = 0,
    *,
    rest: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    sensitivity: bool = True,
    budget: str | None = None,
    synthetic: bool = False,
    scales: Path | str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Find ranges on real data and enter quantized graphs into the bundle as the precision `precision`.

    precision is "int8" (weights and activations), "fp8" (E4M3, both), "int8-weights" or "int4-weights"; method "max",
    "percentile" or "mse"; data as `open_samples` takes it. rest is the plain precision of all else (default: the
    bundle's own where that is a half type, else fp16). include and exclude are patterns of layer names; budget is the
    relative error ("0.05") or the points of accuracy ("0.5pt") that may be lost: layers are left out until it is met.
    scales is a scale file to use in place of data; synthetic allows made-up data. Raises InputError for data or files
    that do not fit, EnvironmentLack for a missing package or a full disk.
    """
    bundle, progress = opened(bundle), progress or Progress()
    settings = settle(
        bundle,
        precision,
        method,
        smooth_quant,
        seed,
        rest=rest,
        include=include,
        exclude=exclude,
        sensitivity=sensitivity,
        budget=budget,
        with_data=data is not None or synthetic,
        scales=scales,
    )
    mode, rest = settings.mode, settings.rest
    passes: Sequence[Resume] = ()
    with work_folder(bundle.root / FOLDER) as folder:
        if settings.scales is not None:
            found = settings.scales
            report = build_report(found, {}, [], None)
        else:
            drawn = _samples(bundle, data, samples, seed, synthetic, folder)
            found, report, passes = _calibrated(bundle, drawn, settings, folder, progress)
        graphs = graphs_in(bundle, list(bundle.manifest["components"]), rest, folder / "rest", progress)
        (folder / "made").mkdir()
        written = {
            name: write_quantized(path, name, found, folder / "made" / f"{name}.{mode.name}.onnx", progress)
            for name, path in graphs.items()
        }
        report.sizes = {
            name: {"rest": path.with_name(f"{path.name}.data").stat().st_size, mode.name: written[name].bytes}
            for name, path in graphs.items()
        }
        enter(bundle.root, found, written, rest, report.to_json())
    for one in passes:
        one.clear()
    return report


def _samples(bundle: Bundle, data: Data, count: int | None, seed: int, synthetic: bool, folder: Path) -> Samples:
    if synthetic:
        check_synthetic(bundle, data)
        return open_samples(bundle, synthetic_requests(bundle, count, seed, folder / "synthetic"), count, seed)
    return open_samples(bundle, data, count, seed)


def _calibrated(
    bundle: Bundle, samples: Samples, settings: Settings, folder: Path, progress: Progress
) -> tuple[Scales, Report, Sequence[Resume]]:
    if settings.budget:
        require_answers(settings.budget, samples)
    names = list(bundle.manifest["components"])
    graphs = graphs_in(bundle, names, "fp32", folder / "fp32", progress)
    choices = choices_of(graphs, settings)
    mode = settings.mode
    task = Task(mode, settings.method, settings.smooth_quant, settings.seed, graphs, choices)
    state = bundle.root.resolve() / FOLDER / f"{mode.name}.json"
    observed = find_scales(task, samples, model_identity(bundle, names), folder, state, progress)
    found = observed.scales
    ranking: list[LayerDamage] = []
    whole = None
    if settings.sensitivity or settings.budget:
        ranking, judge = rank(graphs, found, samples, observed.rows, folder / "sensitivity", progress)
        if settings.budget:
            found = leave_out_for(settings.budget, found, ranking, judge, bundle, samples, progress)
        whole = judge.whole(found)
    return found, build_report(found, _layers(graphs), ranking, whole), observed.passes


def _layers(graphs: Mapping[str, Path]) -> dict[str, dict[str, Layer]]:
    loaded = {name: load_graph(path).graph for name, path in graphs.items()}
    return {name: {layer.name: layer for layer in find_layers(graph)} for name, graph in loaded.items()}
