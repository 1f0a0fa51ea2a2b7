"""The float32 twin of a bf16 graph: the same weights and the same nodes, where nothing can run bfloat16."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from ..bundle import Bundle, BundleWriter
from ..errors import EnvironmentLack
from ..onnx_session import OnnxSession
from ..packages import needing
from ..partial import partial_folder, remove_leftovers
from ..progress import Progress


@contextmanager
def float32_twin(bundle: Bundle, progress: Progress | None = None) -> Iterator[tuple[OnnxSession, list[str]]]:
    """A session over float32 graphs traced anew from the manifest, on the bundle's bf16 weights, and a list of the
    structural differences between the two forms (none is expected). Needs torch; lives until the block ends.

    The graphs lie in `.<name>.partial-*` beside the bundle, or in the folder for temporary files where that cannot be
    written. Raises InputError where the bundle has no bf16 graphs, EnvironmentLack where the disk is too small.
    """
    with needing("export"):
        from ..graphs.precision import trace_again
        from .structure import structural_differences
    # Weights are those of the bundle's own precision, which need not be bf16.
    bundle = replace(bundle, manifest={**bundle.manifest, "precision": "bf16"})
    graphs = {name: bundle.graph(name) for name in bundle.manifest["components"]}
    size = sum(2 * graph.with_name(graph.name + ".data").stat().st_size for graph in graphs.values())
    with _working_folder(bundle.root, size) as folder:
        writer = BundleWriter(folder)
        twins = {name: trace_again(bundle, name, "fp32", writer, progress or Progress()) for name in graphs}
        differences = [text for name in graphs for text in structural_differences(graphs[name], twins[name])]
        yield OnnxSession(twins, "fp32"), differences


@contextmanager
def _working_folder(root: Path, size: int) -> Iterator[Path]:
    """A folder for `size` bytes, removed at the end, or by the next run after a kill."""
    from ..plan import require_room

    root = root.resolve()
    target = root if os.access(root.parent, os.W_OK) else Path(tempfile.gettempdir()) / root.name
    remove_leftovers(target)
    require_room(size, target)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(partial_folder(target))
        except OSError as error:
            raise EnvironmentLack(f"{target.parent} cannot be written: {error.strerror}.") from error
        yield folder
