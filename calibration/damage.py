"""How far a quantized model's outputs are from the float32 model's."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..exporter.parity.metrics import divergences

_LOGITS = ("logits",)


@dataclass(frozen=True)
class Damage:
    """relative_l2 is `|q - f| / |f|`, the mean of all final outputs, so that large ones count no more than others; kl,
    in nats, the mean over columns of `sum p log(p / q)`, and top1 the share of columns with the same first token, None
    without logits."""

    relative_l2: float
    kl: float | None
    top1: float | None


def damage(outputs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> Damage:
    """From what `Tape.replay` gives."""
    gaps: dict[str, float] = {}
    powers: dict[str, float] = {}
    kl = 0.0
    same = columns = 0
    for name, actual, expected in outputs:
        a, e = actual.astype(np.float64), expected.astype(np.float64)
        gaps[name] = gaps.get(name, 0.0) + float(np.square(a - e).sum())
        powers[name] = powers.get(name, 0.0) + float(np.square(e).sum())
        if name in _LOGITS:
            kl += float(divergences(a, e).sum())
            same += int((a.argmax(-1) == e.argmax(-1)).sum())
            columns += e[..., 0].size
    relative = float(np.mean([_relative(gaps[name], powers[name]) for name in gaps])) if gaps else 0.0
    return Damage(relative, kl / columns if columns else None, same / columns if columns else None)


def _relative(gap: float, power: float) -> float:
    return float(np.sqrt(gap / power)) if power else float(np.inf if gap else 0)
