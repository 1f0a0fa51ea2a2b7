"""Which layers do how much damage alone, and how many must stay as they are for a budget to be met."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..exporter.bundle import Bundle
from ..exporter.data import Request
from ..exporter.errors import InputError, VerdictError
from ..exporter.inspection.values import load_graph
from ..exporter.onnx_session import OnnxSession
from ..exporter.pipelines import pipeline_from
from ..exporter.progress import Progress
from ..exporter.session import Session
from .accuracy import accuracy
from .damage import Damage, damage
from .each_component import EachComponent
from .layers import find_layers
from .publish import write_variant
from .remade import Remade
from .samples import Samples
from .scales import Scales
from .tape import Tape

# Samples that the damage is measured on, and how many of them run at a time.
JUDGED, AT_ONCE = 16, 4
# What a ranking may take: a minute or two on two cores. A small model's takes a hundredth of it, and 7B are beyond it.
MULTIPLICATIONS = 5e12


@dataclass(frozen=True)
class Budget:
    """What may be lost: a relative L2 error of the final outputs, or points of accuracy."""

    limit: float
    points: bool

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """From "0.05" or "0.5pt". Raises InputError for anything else."""
        number = text.removesuffix("pt")
        try:
            limit = float(number)
        except ValueError:
            limit = -1.0
        if not 0 < limit < float("inf"):
            raise InputError(f"the budget {text!r} is neither a relative error such as 0.05 nor points such as 0.5pt.")
        return cls(limit, points=text.endswith("pt"))


@dataclass(frozen=True)
class LayerDamage:
    """What quantizing one layer alone does to the model's outputs; None where that was not measured."""

    component: str
    layer: str
    damage: Damage | None


class Judge:
    """Runs quantized variants of float32 graphs on a recorded stretch of use."""

    def __init__(self, graphs: Mapping[str, Path], samples: Samples, folder: Path) -> None:
        """folder takes the variants."""
        self._graphs, self._folder, self._number = graphs, folder, 0
        recording = EachComponent(self._sessions())
        self._recorded = Remade(samples.trial, recording) if samples.trial else _taped(samples, recording)
        del recording
        self._plain = self._sessions()

    def _sessions(self) -> dict[str, Session]:
        # Each opens its graph when it is first run: of a component that is quantized, none is held.
        return {name: OnnxSession({name: path}, "fp32") for name, path in self._graphs.items()}

    def alone(self, scales: Scales, component: str, layer: str, samples: int = JUDGED) -> Damage:
        """With one layer quantized, on so many samples."""
        with self._session(scales, {component: layer}) as session:
            return damage(self._recorded.replay(session, samples))

    def whole(self, scales: Scales) -> Damage:
        """With all layers that `scales` has."""
        with self.session(scales) as session:
            return damage(self._recorded.replay(session))

    def session(self, scales: Scales) -> AbstractContextManager[Session]:
        """The model with all layers that `scales` has quantized, the rest in float32."""
        return self._session(scales, dict.fromkeys(name for name, layers in scales.layers.items() if layers))

    @contextmanager
    def _session(self, scales: Scales, only: Mapping[str, str | None]) -> Iterator[Session]:
        """The variants are on the disk for as long as they are used."""
        sessions, before = dict(self._plain), self._number
        for component, layer in only.items():
            self._number += 1
            folder = self._folder / str(self._number)
            path = write_variant(self._graphs[component], component, scales, folder, layer)
            # Optimized, ONNX Runtime would compute in integers, and round otherwise than the graph says.
            sessions[component] = OnnxSession({component: path}, "fp32", optimize=False)
        try:
            yield EachComponent(sessions)
        finally:
            for number in range(before, self._number):
                shutil.rmtree(self._folder / str(number + 1), ignore_errors=True)


def _taped(samples: Samples, session: Session) -> Tape:
    tape = Tape(session)
    for done in samples.play(tape, batch=AT_ONCE):
        tape.mark(done)
        if done >= JUDGED:
            break
    tape.close()
    return tape


def rank(
    graphs: Mapping[str, Path],
    scales: Scales,
    samples: Samples,
    rows: Mapping[str, float],
    folder: Path,
    progress: Progress,
) -> tuple[list[LayerDamage], Judge]:
    """Every quantized layer by the damage it does alone, the worst first, and the judge for what else is asked.

    rows is how many of each component's rows a sample makes. Where the model is too large for a run for every layer,
    the layers of the best SQNR get none, and come last."""
    judge = Judge(graphs, samples, folder)
    layers = sorted(_layers(scales), key=lambda one: _sqnr(scales, *one))
    most, share = (samples.trial.samples, samples.trial.share) if samples.trial else (JUDGED, 1.0)
    each = share * sum(rows.get(name, 0.0) * _numbers(path) for name, path in graphs.items())
    judged, count = affordable(len(layers), each, most)
    if judged < most or count < len(layers):
        progress.note(_shortened(judged, count, len(layers)))
    measured = []
    with progress.stage("rank layers", count, "layers") as advance:
        for component, layer in layers[:count]:
            measured.append(LayerDamage(component, layer, judge.alone(scales, component, layer, judged)))
            advance(1)
    measured.sort(key=lambda one: -one.damage.relative_l2 if one.damage else 0.0)
    return [*measured, *(LayerDamage(*one, None) for one in layers[count:])], judge


def affordable(layers: int, multiplications: float, most: int = JUDGED) -> tuple[int, int]:
    """On how many samples the damage of each layer is measured, and of how many layers, by the multiplications that one
    sample takes: `most` samples where that is not too much, down to AT_ONCE, and only then fewer layers."""
    for judged in range(most, 0, -AT_ONCE):
        if layers * judged * multiplications <= MULTIPLICATIONS:
            return judged, layers
    fewest = min(AT_ONCE, most)
    return fewest, int(MULTIPLICATIONS / (fewest * multiplications))


def _shortened(judged: int, count: int, layers: int) -> str:
    if not count:
        return "the model is too large to run it for a layer: layers are ranked by SQNR."
    which = "each layer" if count == layers else f"the {count} of {layers} layers of least SQNR"
    return f"the model is large: the damage of {which} is measured on {judged} samples."


def _layers(scales: Scales) -> list[tuple[str, str]]:
    return [(component, layer) for component, found in scales.layers.items() for layer in found]


def _sqnr(scales: Scales, component: str, layer: str) -> float:
    found = scales.layers[component][layer].sqnr
    return float("inf") if found is None else found


def _numbers(path: Path) -> int:
    return sum(layer.inputs * layer.outputs for layer in find_layers(load_graph(path).graph))


def require_answers(budget: Budget, samples: Samples) -> None:
    """Raise InputError where the budget is in points of accuracy, which the samples cannot be judged by."""
    if budget.points and not answered(samples):
        raise InputError(
            "a budget in points of accuracy needs samples with answers; a relative error such as 0.05 needs none."
        )


def answered(samples: Samples) -> list[Request]:
    """The samples whose right answer is known."""
    return [request for request in samples.requests if request.answer is not None]


def leave_out_for(
    budget: Budget,
    scales: Scales,
    ranking: Sequence[LayerDamage],
    judge: Judge,
    bundle: Bundle,
    samples: Samples,
    progress: Progress,
) -> Scales:
    """Leave out as few of the worst layers as meets the budget, found by halving: quantizing less is taken to lose
    less. Raises VerdictError where not even the least damaging layer alone meets it."""
    requests = answered(samples)

    def asked(tried: Scales) -> float:
        with judge.session(tried) as session:
            return accuracy(pipeline_from(session, bundle.manifest, bundle.root, precision="fp32"), requests)

    before = asked(without(scales, ranking)) if budget.points else 0.0

    def met(count: int) -> bool:
        tried = without(scales, ranking[:count])
        if budget.points:
            return 100 * (before - asked(tried)) <= budget.limit
        return judge.whole(tried).relative_l2 <= budget.limit

    with progress.stage("meet the budget"):
        low, high = 0, len(ranking)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if met(middle) else (middle + 1, high)
    if low == len(ranking):
        raise VerdictError("no layer can be quantized within this budget: calibrate on more samples, or allow more.")
    return without(scales, ranking[:low])


def without(scales: Scales, worst: Sequence[LayerDamage]) -> Scales:
    """The same calibration without some layers."""
    names = {(one.component, one.layer) for one in worst}
    layers = {c: {n: s for n, s in found.items() if (c, n) not in names} for c, found in scales.layers.items()}
    left_out = {c: dict(found) for c, found in scales.left_out.items()}
    for one in worst:
        left_out[one.component][one.layer] = "left out for the budget"
    return replace(scales, layers=layers, left_out=left_out)
