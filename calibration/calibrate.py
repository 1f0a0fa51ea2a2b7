"""bundle and data -> quantized graphs: the whole of `memvp-export calibrate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..exporter.bundle import Bundle
from ..exporter.disk import require_free, work_folder
from ..exporter.errors import InputError
from ..exporter.inspection.values import load_graph
from ..exporter.precisions import ITEM_SIZE, PLAIN
from ..exporter.progress import Progress
from .collect import Resume
from .find_scales import Task, find_scales
from .graphs32 import FOLDER, graphs_in
from .layers import Layer, check_patterns, choose, find_layers
from .modes import Mode, mode_named
from .publish import enter, write_quantized
from .ranges import check_method
from .report import Report, build_report
from .samples import Data, Samples, open_samples
from .scales import Scales, model_identity, read_scales, require_fit
from .sensitivity import Budget, LayerDamage, leave_out_for, rank, require_answers
from .synthetic import synthetic_requests

# Beside the graphs: observing graphs, states, reports.
_HEADROOM = 256 << 20


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
    bundle, progress = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle), progress or Progress()
    mode, rest = mode_named(precision), rest or _rest_of(bundle)
    check_method(method)
    if rest not in PLAIN:
        raise InputError(f"the rest is {', '.join(PLAIN)}, not {rest!r}.")
    limit = Budget.parse(budget) if budget is not None else None
    if scales is not None and (data is not None or synthetic or limit):
        raise InputError(
            "a scale file says what to quantize and how: it goes without data, synthetic data or a budget."
        )
    _require_room(bundle, rest)
    passes: Sequence[Resume] = ()
    with work_folder(bundle.root / FOLDER) as folder:
        if scales is not None:
            found = read_scales(Path(scales))
            require_fit(found, bundle, scales)
            if found.mode != mode.name:
                raise InputError(f"{scales} was calibrated for {found.mode}, not for {mode.name}.")
            report = build_report(found, {}, [], None)
        else:
            drawn = _samples(bundle, data, samples, seed, synthetic, folder)
            kept = {name: bundle.keep_fp32(name, rest) for name in bundle.manifest["components"]}
            settings = _Settings(mode, method, smooth_quant, seed, include, exclude, kept, sensitivity, limit)
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


@dataclass(frozen=True)
class _Settings:
    mode: Mode
    method: str
    smooth_quant: bool
    seed: int
    include: Sequence[str]
    exclude: Sequence[str]
    kept: Mapping[str, Sequence[str]]
    sensitivity: bool
    budget: Budget | None


def _rest_of(bundle: Bundle) -> str:
    own = str(bundle.manifest["precision"])
    return "fp16" if own == "fp32" else own


def _samples(bundle: Bundle, data: Data, count: int | None, seed: int, synthetic: bool, folder: Path) -> Samples:
    if synthetic:
        if data is not None:
            raise InputError("synthetic data is made up: give it, or real data, not both.")
        return open_samples(bundle, synthetic_requests(bundle, count, seed, folder / "synthetic"), count, seed)
    return open_samples(bundle, data, count, seed)


def _calibrated(
    bundle: Bundle, samples: Samples, settings: _Settings, folder: Path, progress: Progress
) -> tuple[Scales, Report, Sequence[Resume]]:
    if settings.budget:
        require_answers(settings.budget, samples)
    names = list(bundle.manifest["components"])
    graphs = graphs_in(bundle, names, "fp32", folder / "fp32", progress)
    choices = _choices(graphs, settings)
    mode = settings.mode
    task = Task(mode, settings.method, settings.smooth_quant, settings.seed, graphs, choices)
    state = bundle.root.resolve() / FOLDER / f"{mode.name}.json"
    found, passes = find_scales(task, samples, model_identity(bundle, names), folder, state, progress)
    ranking: list[LayerDamage] = []
    whole = None
    if settings.sensitivity or settings.budget:
        ranking, judge = rank(graphs, found, samples, folder / "sensitivity", progress)
        if settings.budget:
            found = leave_out_for(settings.budget, found, ranking, judge, bundle, samples, progress)
        whole = judge.whole(found)
    return found, build_report(found, _layers(graphs), ranking, whole), passes


def _layers(graphs: Mapping[str, Path]) -> dict[str, dict[str, Layer]]:
    loaded = {name: load_graph(path).graph for name, path in graphs.items()}
    return {name: {layer.name: layer for layer in find_layers(graph)} for name, graph in loaded.items()}


def _choices(graphs: Mapping[str, Path], settings: _Settings) -> dict[str, Any]:
    loaded = {name: load_graph(path).graph for name, path in graphs.items()}
    every = [layer for graph in loaded.values() for layer in find_layers(graph)]
    check_patterns(every, [*settings.include, *settings.exclude])
    choices = {
        name: choose(graph, settings.mode, settings.include, [*settings.exclude, *settings.kept[name]])
        for name, graph in loaded.items()
    }
    if not any(choice.chosen for choice in choices.values()):
        raise InputError("no layer is left to quantize: all are excluded.")
    return choices


def _require_room(bundle: Bundle, rest: str) -> None:
    """Raise EnvironmentLack where quantized graphs, and float32 and `rest` ones to be traced, do not fit the disk."""
    need = _HEADROOM
    for entry in bundle.manifest["components"].values():
        held = {name: one for name, one in entry["graphs"].items() if name in PLAIN}
        name, one = next(iter(held.items()))
        data = bundle.manifest["files"].get(f"{one['file']}.data")
        numbers = data["size"] // ITEM_SIZE[name] if data else 0
        need += numbers * (ITEM_SIZE[rest] + sum(ITEM_SIZE[p] for p in {"fp32", rest} - held.keys()))
    require_free(bundle.root, need)
