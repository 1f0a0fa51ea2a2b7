"""What a calibration was asked for, settled before anything is read or run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..exporter.bundle import Bundle
from ..exporter.disk import require_free, require_writable
from ..exporter.errors import InputError
from ..exporter.inspection.values import load_graph
from ..exporter.precisions import ITEM_SIZE, PLAIN
from .layers import Choice, check_patterns, choose, find_layers
from .modes import Mode, mode_named
from .ranges import check_method
from .scales import Scales, read_scales, require_fit
from .sensitivity import Budget

# Beside the graphs: observing graphs, states, reports.
_HEADROOM = 256 << 20


@dataclass(frozen=True)
class Settings:
    """rest is the plain precision of all that is not quantized; kept are the patterns of what that has in float32, by
    component; scales are those of the file that stands in for data, if any."""

    mode: Mode
    rest: str
    method: str
    smooth_quant: bool
    seed: int
    include: Sequence[str]
    exclude: Sequence[str]
    kept: Mapping[str, Sequence[str]]
    sensitivity: bool
    budget: Budget | None
    scales: Scales | None


def settle(
    bundle: Bundle,
    precision: str = "int8",
    method: str = "mse",
    smooth_quant: bool = True,
    seed: int = 0,
    *,
    rest: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    sensitivity: bool = True,
    budget: str | None = None,
    with_data: bool = False,
    scales: Path | str | None = None,
) -> Settings:
    """See `calibrate`; with_data: data, real or made up, was given. Raises InputError for what cannot be or does not go
    together, EnvironmentLack for a bundle that cannot be written or a disk that is too small."""
    mode, rest = mode_named(precision), rest or _rest_of(bundle)
    check_method(method)
    if rest not in PLAIN:
        raise InputError(f"the rest is {', '.join(PLAIN)}, not {rest!r}.")
    limit = Budget.parse(budget) if budget is not None else None
    if scales is not None and (with_data or limit):
        raise InputError(
            "a scale file says what to quantize and how: it goes without data, synthetic data or a budget."
        )
    require_writable(bundle.root)
    # The ranking's variants are there one at a time, a byte a number at most.
    variant = sum(_numbers(bundle).values()) if (sensitivity or limit) and scales is None else 0
    require_free(bundle.root, _HEADROOM + made_bytes(bundle, rest) + variant)
    held = None
    if scales is not None:
        held = read_scales(Path(scales))
        require_fit(held, bundle, scales)
        if held.mode != mode.name:
            raise InputError(f"{scales} was calibrated for {held.mode}, not for {mode.name}.")
    kept = {name: bundle.keep_fp32(name, rest) for name in bundle.manifest["components"]}
    return Settings(mode, rest, method, smooth_quant, seed, include, exclude, kept, sensitivity, limit, held)


def _rest_of(bundle: Bundle) -> str:
    own = str(bundle.manifest["precision"])
    return "fp16" if own == "fp32" else own


def made_bytes(bundle: Bundle, rest: str) -> int:
    """Bytes of quantized graphs, and of float32 and `rest` ones that are to be traced."""
    need = 0
    for name, numbers in _numbers(bundle).items():
        traced = {"fp32", rest} - bundle.manifest["components"][name]["graphs"].keys()
        need += numbers * (ITEM_SIZE[rest] + sum(ITEM_SIZE[precision] for precision in traced))
    return need


def _numbers(bundle: Bundle) -> dict[str, int]:
    """How many numbers the weights of each component are, by the size of one of its plain graphs."""
    found = {}
    for component, entry in bundle.manifest["components"].items():
        precision, one = next((name, one) for name, one in entry["graphs"].items() if name in PLAIN)
        data = bundle.manifest["files"].get(f"{one['file']}.data")
        found[component] = data["size"] // ITEM_SIZE[precision] if data else 0
    return found


def choices_of(graphs: Mapping[str, Path], settings: Settings) -> dict[str, Choice]:
    """The layers to quantize in the graphs of components. InputError where none is left, or a pattern names none."""
    loaded: dict[str, Any] = {name: load_graph(path).graph for name, path in graphs.items()}
    every = [layer for graph in loaded.values() for layer in find_layers(graph)]
    check_patterns(every, [*settings.include, *settings.exclude])
    choices = {
        name: choose(graph, settings.mode, settings.include, [*settings.exclude, *settings.kept[name]])
        for name, graph in loaded.items()
    }
    if not any(choice.chosen for choice in choices.values()):
        raise InputError("no layer is left to quantize: all are excluded.")
    return choices
