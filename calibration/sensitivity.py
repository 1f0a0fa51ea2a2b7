"""Which layers do how much damage alone, and how many must stay as they are for a budget to be met."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from ..exporter.bundle import Bundle
from ..exporter.data import Request
from ..exporter.errors import InputError, VerdictError
from ..exporter.onnx_session import OnnxSession
from ..exporter.pipelines import pipeline_from
from ..exporter.progress import Progress
from ..exporter.session import Session
from .accuracy import accuracy
from .damage import Damage, damage
from .each_component import EachComponent
from .publish import write_variant
from .samples import BATCH, Samples
from .scales import Scales
from .tape import Tape

# Samples that the damage is measured on: one batch of the pipeline after the other.
JUDGED = 2 * BATCH


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
    """What quantizing one layer alone does to the model's outputs."""

    component: str
    layer: str
    damage: Damage


class Judge:
    """Runs quantized variants of float32 graphs on a recorded stretch of use."""

    def __init__(self, graphs: Mapping[str, Path], samples: Samples, folder: Path) -> None:
        """folder takes the variants."""
        self._graphs, self._folder, self._number = graphs, folder, 0
        self._plain = {name: OnnxSession({name: path}, "fp32") for name, path in graphs.items()}
        self._tape = Tape(EachComponent(self._plain))
        for done in islice(samples.play(self._tape, 0), JUDGED):
            if done >= JUDGED:
                break
        self._tape.close()

    def alone(self, scales: Scales, component: str, layer: str) -> Damage:
        """With one layer quantized."""
        return damage(self._tape.replay(self._session(scales, {component: layer})))

    def whole(self, scales: Scales) -> Damage:
        """With all layers that `scales` has."""
        return damage(self._tape.replay(self.session(scales)))

    def session(self, scales: Scales) -> Session:
        """The model with all layers that `scales` has quantized, the rest in float32."""
        return self._session(scales, dict.fromkeys(name for name, layers in scales.layers.items() if layers))

    def _session(self, scales: Scales, only: Mapping[str, str | None]) -> Session:
        sessions = dict(self._plain)
        for component, layer in only.items():
            self._number += 1
            folder = self._folder / str(self._number)
            path = write_variant(self._graphs[component], component, scales, folder, layer)
            # Optimized, ONNX Runtime would compute in integers, and round otherwise than the graph says.
            sessions[component] = OnnxSession({component: path}, "fp32", optimize=False)
        return EachComponent(sessions)


def rank(
    graphs: Mapping[str, Path], scales: Scales, samples: Samples, folder: Path, progress: Progress
) -> tuple[list[LayerDamage], Judge]:
    """Every quantized layer by the damage it does alone, the worst first, and the judge for what else is asked."""
    judge = Judge(graphs, samples, folder)
    layers = [(component, layer) for component, found in scales.layers.items() for layer in found]
    ranking = []
    with progress.stage("rank layers", len(layers)) as advance:
        for component, layer in layers:
            ranking.append(LayerDamage(component, layer, judge.alone(scales, component, layer)))
            advance(1)
    return sorted(ranking, key=lambda one: -one.damage.relative_l2), judge


def require_answers(budget: Budget, samples: Samples) -> None:
    """Raise InputError where the budget is in points of accuracy, which the samples cannot be judged by."""
    if budget.points and not answered(samples):
        raise InputError("a budget in points of accuracy needs samples with answers.")


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

    def asked(session: Session) -> float:
        return accuracy(pipeline_from(session, bundle.manifest, bundle.root, precision="fp32"), requests)

    before = asked(judge.session(without(scales, ranking))) if budget.points else 0.0

    def met(count: int) -> bool:
        tried = without(scales, ranking[:count])
        if budget.points:
            return 100 * (before - asked(judge.session(tried))) <= budget.limit
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
