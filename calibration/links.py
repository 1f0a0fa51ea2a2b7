"""Published weights beside a graph that is tried out, without a second copy."""

import os
import shutil
from pathlib import Path

import onnx


def link_weights(graph: onnx.GraphProto, source: Path, folder: Path, own: str | None = None) -> None:
    """Bring the data files that weights of `graph` lie in, beside the file `source`, into `folder` too; `own` is one
    that lies there already. As hard links: ONNX Runtime follows no others out of a folder."""
    names = {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"}
    for name in sorted(names - {own}):
        data = source.with_name(name)
        try:
            os.link(data.resolve(), folder / name)
        except OSError:
            # A disk without links, or a file of another user.
            shutil.copyfile(data, folder / name)
