"""What a check will compare, for a dry run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..checkpoints.source import Source
from ..datasets import open_dataset
from ..kv_cache import is_present
from .samples import read_cases, read_samples


def preview_check(
    bundle: Bundle,
    precision: str | None = None,
    data: Path | str | None = None,
    source: Source | None = None,
    backend: str = "onnxruntime",
) -> dict[str, Any]:
    """JSON data; "compared" has one line for each thing. Raises InputError as the check would for bad data. Which of
    several engines of a component runs is decided by the machine, when it runs."""
    precision = precision or bundle.manifest["precision"]
    cases = read_cases(bundle)
    compared = [
        f"{case.component}, golden case {case.name}: "
        + ", ".join(f"{k} {list(v.shape)}" for k, v in _shown(case.outputs))
        for case in cases
    ]
    if samples := read_samples(bundle):
        compared.append(f"the reference's answers to the bundle's own {len(samples)} questions")
    if source is not None:
        compared.append("the golden inputs and random ones of other shapes, with PyTorch on the source's tensors")
    if backend == "tensorrt":
        compared += [
            line for entry in bundle.manifest["engines"] if entry["precision"] == precision for line in _ends(entry)
        ]
    elif not cases and source is None:
        compared.append("random inputs, with PyTorch on the bundle's own weights: graph parity only")
    if data is not None:
        compared.append(f"{sum(1 for _ in open_dataset(data).requests())} requests of {data}")
    return {
        "bundle": str(bundle.root),
        "precision": precision,
        "compared": compared,
    }


def _ends(entry: Mapping[str, Any]) -> list[str]:
    return [
        f"{entry['component']}, engine {entry['file']}: profile {profile['name']} at its min, opt and max, with PyTorch"
        for profile in entry["profiles"]
    ]


def _shown(outputs: dict[str, Any]) -> list[tuple[str, Any]]:
    """All outputs but the caches of every layer after the first."""
    return [(k, v) for k, v in outputs.items() if not is_present(k) or k.startswith("present.0.")]
