"""The float32 graphs that ranges are observed on: the bundle's own, or traced again from its manifest."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..exporter.bundle import Bundle, BundleWriter
from ..exporter.errors import EnvironmentLack, MissingPackage
from ..exporter.partial import partial_folder, remove_leftovers
from ..exporter.progress import Progress

FOLDER = "calibration"


@contextmanager
def work_folder(root: Path) -> Iterator[Path]:
    """A folder on the bundle's disk that is gone at the end; leftovers of killed runs are removed. Raises
    EnvironmentLack where the bundle cannot be written, or its disk is full."""
    target = root.resolve() / FOLDER
    remove_leftovers(target)
    try:
        with partial_folder(target) as folder:
            yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentLack(f"the disk of {root} is full. Make room and calibrate again.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise EnvironmentLack(f"{root} cannot be written: {error.strerror}.") from error
        raise


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
        found[name] = trace_again(bundle, name, precision, BundleWriter(folder), progress)
    return found
