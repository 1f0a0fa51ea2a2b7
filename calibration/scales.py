"""What calibration found, as a portable file: ranges and factors of one mode by layer, keyed by model and data."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..exporter.bundle import Bundle
from ..exporter.data import read_json
from ..exporter.errors import InputError
from ..exporter.inspection.values import load_graph
from .layers import find_layers

FORMAT = "memvp-export calibration"
SCHEMA = 1


@dataclass(frozen=True)
class LayerScale:
    """How one layer is quantized. clip is the magnitude of its activations that the format's end stands for (None where
    they are not quantized; 0 where they are all 0); smoothed names the entry of `factors` that its input
    is divided by;
    importance is the mean square of each input, where the search of its weights' clips used it."""

    clip: float | None
    smoothed: str | None = None
    sqnr: float | None = None
    importance: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Scales:
    """A calibration. layers by component and layer; left_out, the reasons of the others; factors by component
    and tensor, SmoothQuant's s of each channel; alphas likewise. model and data are what it belongs to."""

    mode: str
    method: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    layers: dict[str, dict[str, LayerScale]]
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    factors: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    alphas: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The file's text; the same for the same calibration."""
        content = {"format": FORMAT, "schema": SCHEMA, **asdict(self)}
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def read_scales(path: Path) -> Scales:
    """Read a scale file. Raises InputError where it is none, is damaged, or is of a newer schema."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no scale file of memvp-export.")
    if content.get("schema") != SCHEMA:
        raise InputError(f"{path} has schema {content.get('schema')}, this tool reads {SCHEMA}. Upgrade memvp-export.")
    try:
        fields = {key: content[key] for key in Scales.__dataclass_fields__}
        fields["layers"] = {
            component: {name: _layer(entry) for name, entry in layers.items()}
            for component, layers in content["layers"].items()
        }
        scales = Scales(**fields)
        _check_numbers(scales)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): calibrate again.") from error
    return scales


def _layer(entry: Mapping[str, Any]) -> LayerScale:
    importance = entry.get("importance")
    return LayerScale(**{**entry, "importance": tuple(importance) if importance else None})


def _check_numbers(scales: Scales) -> None:
    for layers in scales.layers.values():
        for name, layer in layers.items():
            if layer.clip is not None and not (math.isfinite(layer.clip) and layer.clip >= 0):
                raise ValueError(f"the range of {name} is {layer.clip}")
    for norms in scales.factors.values():
        for name, values in norms.items():
            if not values or not (np.isfinite(values).all() and min(values) > 0):
                raise ValueError(f"the factors of {name} are not positive numbers")


def model_identity(bundle: Bundle, components: Sequence[str]) -> dict[str, Any]:
    """What tells one model from another in every precision: SHA-256 of family, config and the official files' digests,
    and for each component one of its layers' names and sizes."""
    manifest = bundle.manifest
    sources = sorted(entry["sha256"] for entry in manifest["sources"])
    return {
        "family": manifest["family"],
        "weights": _sha256([manifest["family"], manifest["config"], sources]),
        "graphs": {name: _graph_digest(bundle, name) for name in components},
    }


def _graph_digest(bundle: Bundle, component: str) -> str:
    graphs = bundle.manifest["components"][component]["graphs"]
    plain = next(name for name in graphs if "calibration" not in graphs[name])
    graph: onnx.GraphProto = load_graph(bundle.graph(component, plain)).graph
    return _sha256([[layer.name, layer.inputs, layer.outputs] for layer in find_layers(graph)])


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def require_fit(scales: Scales, bundle: Bundle, where: Path | str) -> None:
    """Raise InputError where a scale file is not of this bundle's model."""
    components = list(scales.layers)
    if unknown := [name for name in components if name not in bundle.manifest["components"]]:
        raise InputError(f"{where} has ranges of {', '.join(unknown)}, which {bundle.root} has not.")
    own = model_identity(bundle, components)
    for key, what in (("family", "family"), ("graphs", "layers"), ("weights", "weights")):
        if scales.model.get(key) != own[key]:
            raise InputError(
                f"{where} does not belong to {bundle.root}: it was calibrated on a model of other {what}. "
                f"Calibrate this one:  memvp-export calibrate {bundle.root} --data PATH --precision {scales.mode}"
            )
