"""The float32 graphs that ranges are observed on: the bundle's own, or traced again from its manifest."""

from collections.abc import Sequence
from pathlib import Path

from ..exporter.bundle import Bundle, BundleWriter
from ..exporter.errors import EnvironmentLack
from ..exporter.packages import needing
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
            with needing("export"):
                from ..exporter.graphs.precision import trace_again
        except EnvironmentLack as lack:
            raise EnvironmentLack(f"{bundle.root} has no {precision} graph of {name} to start from: {lack}") from lack
        keep = bundle.keep_fp32(name, precision)
        found[name] = trace_again(bundle, name, precision, BundleWriter(folder), progress, keep)
    return found
