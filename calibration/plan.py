"""What a calibration would do, without doing any of it: `calibrate --dry-run`."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..exporter.bundle import Bundle, opened
from ..exporter.console import table
from ..exporter.disk import free_bytes
from .samples import DEFAULT_SAMPLES, Data, open_samples
from .sensitivity import require_answers
from .settings import Settings, choices_of, made_bytes, settle
from .synthetic import check_synthetic


def plan_calibration(
    bundle: Bundle | Path | str,
    data: Data = None,
    *,
    samples: int | None = None,
    synthetic: bool = False,
    **asked: Any,
) -> dict[str, Any]:
    """What `calibrate` with these arguments would do, as JSON data; nothing is written and no sample is run.

    Raises what that raises before it runs any. Layers are chosen in the graphs that the bundle has, in any precision.
    """
    bundle = opened(bundle)
    settings = settle(bundle, **asked, with_data=data is not None or synthetic)
    count = 0
    if synthetic:
        check_synthetic(bundle, data)
        count = samples or DEFAULT_SAMPLES
    elif settings.scales is None:
        drawn = open_samples(bundle, data, samples, settings.seed)
        count = drawn.count
        if settings.budget:
            require_answers(settings.budget, drawn)
    components = bundle.manifest["components"]
    if settings.scales is None:
        held = {name: "fp32" if "fp32" in one["graphs"] else None for name, one in components.items()}
        choices = choices_of({name: bundle.graph(name, held[name]) for name in components}, settings)
        layers = {name: len(choice.chosen) for name, choice in choices.items()}
        left_out = {name: choice.left_out for name, choice in choices.items()}
    else:
        layers = {name: len(settings.scales.layers.get(name, ())) for name in components}
        left_out = settings.scales.left_out
    return {
        "precision": settings.mode.name,
        "rest": settings.rest,
        "samples": count,
        "components": [
            {
                "name": name,
                "layers": number,
                "left_out": dict(Counter(left_out.get(name, {}).values()).most_common()),
                "traced": _traced(components[name]["graphs"], settings),
            }
            for name, number in layers.items()
        ],
        "bytes": made_bytes(bundle, settings.rest),
        "disk_free": free_bytes(bundle.root),
    }


def _traced(graphs: Mapping[str, Any], settings: Settings) -> list[str]:
    """The graphs that are made of the manifest: to observe, and to quantize."""
    needed = {settings.rest} if settings.scales else {"fp32", settings.rest}
    return sorted(needed - graphs.keys())


def print_plan(plan: dict[str, Any]) -> None:
    """Print what `plan_calibration` gave."""
    rows = [
        (
            one["name"],
            one["layers"],
            "; ".join(f"{count}: {reason}" for reason, count in one["left_out"].items()),
            ", ".join(one["traced"]),
        )
        for one in plan["components"]
    ]
    title = f"{plan['precision']}, the rest in {plan['rest']}"
    table(title, ("component", "layers", "left as they are", "graphs to be traced"), rows)
