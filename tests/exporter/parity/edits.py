"""Files of a bundle changed together with their digests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from memvp_export.exporter.bundle import change


def rewrite(root: Path, name: str, edit: Callable[[Path], object], **manifest: Any) -> None:
    """Change a file together with its digest, so that the bundle opens as if nothing had happened."""
    with change(root) as (writer, content):
        edit(root / name)
        writer.record(name)
        writer.write_manifest({**content, **manifest})


def edit_golden(edit: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def change_file(path: Path) -> None:
        with np.load(path) as stored:
            arrays = {name: stored[name].copy() for name in stored.files}
        edit(arrays)
        np.savez(path, **arrays)  # type: ignore[arg-type]

    return change_file
