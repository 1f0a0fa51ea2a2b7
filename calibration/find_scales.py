"""Ranges, SmoothQuant's factors and every layer's SQNR, from watched float32 graphs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..exporter.graphs.lowering.edit import weights
from ..exporter.inspection.values import load_graph
from ..exporter.progress import Progress
from .collect import Resume, collect
from .layers import Choice, Layer
from .modes import Mode
from .observe import Observers
from .observers import Observer
from .operands import Operand, find_operands
from .ranges import clip_of
from .samples import Samples
from .scales import LayerScale, Scales
from .smooth import Smoothing, search, squared_error
from .weights_file import read_matrix

_SINGLE = np.dtype(np.float32)
# The share of the error that must be left at most where smoothing costs a product.
_WORTH = 0.5


@dataclass(frozen=True)
class Task:
    """What is to be calibrated: float32 graphs and the choice of layers by component, and how."""

    mode: Mode
    method: str
    smooth_quant: bool
    seed: int
    graphs: Mapping[str, Path]
    choices: Mapping[str, Choice]

    def identity(self) -> dict[str, Any]:
        """What the observed values depend on, beside model and samples."""
        chosen = {name: [layer.name for layer in choice.chosen] for name, choice in self.choices.items()}
        return {"seed": self.seed, "chosen": chosen}


@dataclass(frozen=True)
class Found:
    """Scales; rows, how many a sample brings to a watched tensor of each component, on average; and the passes, to be
    cleared once the scales are in the bundle: until then their states may be needed again."""

    scales: Scales
    rows: Mapping[str, float]
    passes: Sequence[Resume]


def find_scales(
    task: Task, samples: Samples, model: Mapping[str, Any], folder: Path, state: Path, progress: Progress
) -> Found:
    """Observe, search and cut. folder is for work; state is the file that the states of passes are kept beside."""
    identity = {**task.identity(), "model": model, "data": samples.digest}
    passes = [Resume(state, {**identity, "pass": "ranges"})]
    widths = {name: _widths(choice.chosen) for name, choice in task.choices.items() if choice.chosen}
    observers = collect(
        task.graphs, widths, samples, task.seed, folder / "ranges", passes[0], progress, "observe ranges"
    )
    smoothings: dict[str, dict[str, Smoothing]] = {}
    if task.smooth_quant:
        smoothings = _smooth(task, observers, progress)
        if task.mode.activations and task.method != "max" and any(smoothings.values()):
            # The histogram of x / s does not follow from that of x.
            passes.append(Resume(state, {**identity, "pass": "smoothed", **_described(smoothings)}))
            divisors = {c: {name: one.factors for name, one in found.items()} for c, found in smoothings.items()}
            again = {c: {name: widths[c][name] for name in found} for c, found in divisors.items() if found}
            smoothed = collect(
                task.graphs, again, samples, task.seed, folder / "smoothed", passes[1], progress,
                "observe smoothed ranges", divisors,
            )  # fmt: skip
        else:
            smoothed = {}
    else:
        smoothed = {}
    with progress.stage("cut the ranges"):
        found = {
            name: _layer_scales(task, name, observers[name], smoothed.get(name, {}), smoothings.get(name, {}))
            for name in widths
        }
    scales = Scales(
        mode=task.mode.name,
        method=task.method,
        model=model,
        data={**samples.description(), "seed": task.seed},
        layers={name: found.get(name, ({}, {}))[0] for name in task.choices},
        left_out={name: {**choice.left_out, **found.get(name, ({}, {}))[1]} for name, choice in task.choices.items()},
        factors={c: {name: _short(one.factors) for name, one in each.items()} for c, each in smoothings.items()},
        alphas={c: {name: one.alpha for name, one in each.items()} for c, each in smoothings.items()},
    )
    rows = {c: float(np.mean([one.count for one in each.values()])) / samples.count for c, each in observers.items()}
    return Found(scales, rows, passes)


def _widths(layers: Sequence[Layer]) -> dict[str, int]:
    return {layer.input: layer.inputs for layer in layers}


def _described(smoothings: Mapping[str, Mapping[str, Smoothing]]) -> dict[str, Any]:
    return {c: {name: one.alpha for name, one in found.items()} for c, found in smoothings.items()}


def _smooth(task: Task, observers: Observers, progress: Progress) -> dict[str, dict[str, Smoothing]]:
    """For each tensor where it helps, its smoothing. Where no norm takes the division in, it must be worth a product of
    its own."""
    found: dict[str, dict[str, Smoothing]] = {}
    for component, path in task.graphs.items():
        graph = load_graph(path).graph
        operands = find_operands(graph, task.choices[component].chosen)
        found[component] = {}
        with progress.stage(f"smooth {component}", len(operands), "tensors") as advance:
            for operand in operands:
                one = search(
                    observers[component][operand.value],
                    _matrices(operand, graph, path),
                    task.mode,
                    task.method,
                    _SINGLE,
                )
                if one.alpha and (operand.norm or one.errors[one.alpha] < _WORTH * one.errors[0.0]):
                    found[component][operand.value] = one
                advance(1)
    return found


def _matrices(operand: Operand, graph: onnx.GraphProto, path: Path) -> dict[str, np.ndarray]:
    stored = weights(graph)
    return {layer.name: read_matrix(stored[layer.weight], path) for layer in operand.layers}


def _layer_scales(
    task: Task,
    component: str,
    observers: Mapping[str, Observer],
    smoothed: Mapping[str, Observer],
    smoothings: Mapping[str, Smoothing],
) -> tuple[dict[str, LayerScale], dict[str, str]]:
    path, mode = task.graphs[component], task.mode
    stored = weights(load_graph(path).graph)
    scales, left_out = {}, {}
    clips: dict[str, float] = {}
    for layer in task.choices[component].chosen:
        observer, one = observers[layer.input], smoothings.get(layer.input)
        if not observer.histogram.largest:
            left_out[layer.name] = "its inputs are all 0 on these samples"
            continue
        factors = one.factors if one else np.ones(layer.inputs, np.float32)
        if mode.activations and layer.input not in clips:
            if one and layer.input not in smoothed:
                clips[layer.input] = float((observer.maxima / factors).max())
            else:
                histogram = smoothed.get(layer.input, observer).histogram
                clips[layer.input] = clip_of(histogram, task.method, mode.activations)
        clip = clips.get(layer.input)
        error = squared_error(
            observer, read_matrix(stored[layer.weight], path), mode, task.method, _SINGLE, factors, clip
        )
        searched = task.method == "mse" and mode.weights.bits < 8
        scales[layer.name] = LayerScale(
            clip=clip,
            smoothed=layer.input if one else None,
            sqnr=round(-10 * math.log10(error), 2) if error else None,
            importance=tuple(_short(observer.mean_squares / factors.astype(np.float64) ** 2)) if searched else None,
        )
    return scales, left_out


def _short(values: np.ndarray) -> list[float]:
    """Numbers for JSON, to five digits: what is applied is what is written."""
    return [float(f"{value:.5g}") for value in values]
