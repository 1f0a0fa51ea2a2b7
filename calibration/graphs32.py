"""The float32 graphs that ranges are observed on: the bundle's own, or traced again from its manifest."""

from collections.abc import Sequence
from pathlib import Path

from ..exporter.bundle import Bundle, BundleWriter
from ..exporter.errors import MissingPackage
from ..exporter.progress import Progress

FOLDER = "calibration"


def graphs_in(
    bundle: Bundle, components: Sequence[str], precision: str, folder: Path, progress: Progress
) -> dict[str, Path]:
    """The graphs of components in a plain precision; what the bundle has not is traced into `folder`, which needs
    torch but no checkpoint."""
    found = {}
    for name in components:
        if precision in bundle.manifest["components"][name]["graphs"]:
            found[name] = bundle.graph(name, precision)
            continue
        try:
            from ..exporter.graphs.precision import trace_again
        except ImportError as error:
            progress.note(f"{bundle.root} has no {precision} graph of {name}: making it needs PyTorch.")
            raise MissingPackage(error.name or "torch", "export") from error
        keep = bundle.keep_fp32(name, precision)
        found[name] = trace_again(bundle, name, precision, BundleWriter(folder), progress, keep)
    return found
