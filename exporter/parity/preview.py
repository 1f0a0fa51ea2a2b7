"""What a check will compare, for a dry run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..cache import is_present
from ..checkpoints.source import Source
from ..datasets import open_dataset
from ..engines.session import TensorRTSession
from ..packages import require_installed
from ..pipelines import makes_images
from ..run import open_session
from .samples import read_cases, read_samples


def preview_check(
    bundle: Bundle,
    precision: str | None = None,
    data: Path | str | None = None,
    source: Source | None = None,
    backend: str = "onnxruntime",
    trust_bundle: bool = False,
    lowering: str | None = None,
) -> dict[str, Any]:
    """JSON data; "compared" has one line for each thing. Raises what the check would raise before it compares: for bad
    data, and for want of graphs, of engines, or of what runs them."""
    precision = precision or bundle.manifest["precision"]
    engines = _engines(bundle, backend, precision, trust_bundle, lowering)
    cases = read_cases(bundle)
    compared = [
        f"{case.component}, golden case {case.name}: "
        + ", ".join(f"{k} {list(v.shape)}" for k, v in _shown(case.outputs))
        for case in cases
    ]
    if samples := read_samples(bundle):
        made = "latents of" if makes_images(bundle.manifest) else "answers to"
        compared.append(f"the reference's {made} the bundle's own {len(samples)} questions")
    if source is not None:
        compared.append("the golden inputs and random ones of other shapes, with PyTorch on the source's tensors")
    if backend == "tensorrt":
        compared += [line for entry in engines for line in _ends(entry)]
    elif not cases and source is None:
        compared.append("random inputs, with PyTorch on the bundle's own weights: graph parity only")
    if data is not None:
        compared.append(f"{sum(1 for _ in open_dataset(data).requests())} requests of {data}")
    return {
        "bundle": str(bundle.root),
        "precision": precision,
        "compared": compared,
    }


def _engines(
    bundle: Bundle, backend: str, precision: str, trust_bundle: bool, lowering: str | None
) -> list[Mapping[str, Any]]:
    """The engines that would run, none with ONNX Runtime. Opening a session loads nothing."""
    if backend != "tensorrt":
        require_installed("onnxruntime", extra="cpu")
    session = open_session(bundle, backend, precision, trust_bundle, lowering)
    if not isinstance(session, TensorRTSession):
        return []
    with session:
        return [*session.entries.values()]


def _ends(entry: Mapping[str, Any]) -> list[str]:
    return [
        f"{entry['component']}, engine {entry['file']}: profile {profile['name']} at its min, opt and max, with PyTorch"
        for profile in entry["profiles"]
    ]


def _shown(outputs: dict[str, Any]) -> list[tuple[str, Any]]:
    """All outputs but the caches of every layer after the first."""
    return [(k, v) for k, v in outputs.items() if not is_present(k) or k.startswith("present.0.")]
