"""What a calibration did, layer by layer, as plain data."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .damage import Damage
from .layers import Layer
from .scales import Scales
from .sensitivity import LayerDamage


@dataclass(frozen=True)
class LayerRow:
    """A layer in the report. clip is its activations' largest magnitude that is kept; alpha SmoothQuant's, 0 where
    nothing is divided; sqnr in dB; alone the relative L2 that it causes by itself; reason why it was left out."""

    component: str
    layer: str
    inputs: int | None
    outputs: int | None
    clip: float | None
    alpha: float
    sqnr: float | None
    alone: float | None
    alone_kl: float | None
    reason: str | None


@dataclass
class Report:
    """A calibration: its settings, its layers, the worst first, and damage, that of all quantized layers together with
    the rest in float32; sizes gives bytes of weights by component, as they were and as they are."""

    mode: str
    method: str
    data: Mapping[str, Any]
    layers: list[LayerRow]
    damage: Damage | None
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def quantized(self) -> int:
        """How many layers are quantized."""
        return sum(row.reason is None for row in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {**asdict(self), "quantized": self.quantized}

    def to_json(self) -> str:
        """The report's file."""
        return json.dumps(self.to_dict(), indent=1) + "\n"


def build_report(
    scales: Scales,
    layers: Mapping[str, Mapping[str, Layer]],
    ranking: Sequence[LayerDamage],
    whole: Damage | None,
) -> Report:
    """From what was found; layers gives sizes, ranking is empty where none was made."""
    alone = {(one.component, one.layer): one.damage for one in ranking}
    rows = []
    for component, found in scales.layers.items():
        alphas = scales.alphas.get(component, {})
        for name in (*found, *scales.left_out.get(component, {})):
            scale, layer = found.get(name), layers.get(component, {}).get(name)
            caused = alone.get((component, name))
            rows.append(
                LayerRow(
                    component=component,
                    layer=name,
                    inputs=layer.inputs if layer else None,
                    outputs=layer.outputs if layer else None,
                    clip=scale.clip if scale else None,
                    alpha=alphas.get(scale.smoothed, 0.0) if scale and scale.smoothed else 0.0,
                    sqnr=scale.sqnr if scale else None,
                    alone=caused.relative_l2 if caused else None,
                    alone_kl=caused.kl if caused else None,
                    reason=None if scale else scales.left_out[component][name],
                )
            )
    rows.sort(key=lambda row: (-(row.alone or 0.0), math.inf if row.sqnr is None else row.sqnr))
    return Report(scales.mode, scales.method, scales.data, rows, whole)
