"""What an export will write, known before anything is traced."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoints.source import Source
from .errors import EnvironmentLack
from .graphs.trace import check_opset, default_opset
from .keep_fp32 import is_kept, patterns_of
from .models.family import Model, load
from .parity.golden import golden_bytes

# Beside weights and golden samples: graphs, pictures, tokenizer and reports.
HEADROOM = 64 << 20


@dataclass(frozen=True)
class Plan:
    """A source that was read, the settled precision and opset, the weight bytes of each component, the bytes of the
    golden samples (0 without), and for each component the patterns of what it keeps in float32."""

    model: Model
    precision: str
    opset: int
    sizes: dict[str, int]
    golden: int
    keep_fp32: dict[str, tuple[str, ...]]

    @property
    def bytes(self) -> int:
        """Bytes of all weights and golden samples."""
        return sum(self.sizes.values()) + self.golden

    def to_dict(self, output: Path) -> dict[str, Any]:
        """JSON data for a dry run."""
        free = free_bytes(output)
        return {
            "family": self.model.family,
            "output": str(output),
            "precision": self.precision,
            "opset": self.opset,
            "config": self.model.config.to_dict(),
            "components": [
                {
                    "name": part.name,
                    "file": f"graphs/{part.name}.onnx",
                    "weights": len(part.weights),
                    "bytes": self.sizes[part.name],
                    "keep_fp32": list(self.keep_fp32[part.name]),
                }
                for part in self.model.components
            ],
            "golden_bytes": self.golden,
            "bytes": self.bytes,
            "disk_free": free,
            "fits": self.bytes + HEADROOM <= free,
        }


def plan_export(
    source: Source,
    precision: str | None = None,
    opset: int | None = None,
    golden: bool = True,
    keep_fp32: Sequence[str] = (),
) -> Plan:
    """Read the headers of the source's files and settle what was left open; golden: with golden samples. Raises
    InputError for bad files, an opset that cannot hold the precision, or modules to keep in float32 that do not exist.
    """
    model = load(source)
    precision = precision or model.precision
    opset = opset or default_opset(precision)
    check_opset(opset, precision)
    kept = patterns_of({part.name: part.weights for part in model.components}, keep_fp32, precision)
    narrow = 4 if precision == "fp32" else 2
    sizes = {
        part.name: sum(
            math.prod(weight.shape) * (4 if weight.float32 or is_kept(name, kept[part.name]) else narrow)
            for name, weight in part.weights.items()
        )
        for part in model.components
    }
    return Plan(model, precision, opset, sizes, golden_bytes(model.components) if golden else 0, kept)


def require_room(size: int, path: Path) -> None:
    """Raise EnvironmentLack where the disk of `path` has not `size` bytes and some headroom."""
    free = free_bytes(path)
    if size + HEADROOM > free:
        raise EnvironmentLack(f"the disk is too small: {path} needs {size + HEADROOM:,} bytes, {free:,} are free.")


def free_bytes(path: Path) -> int:
    """Bytes free on the disk where `path` is or will be."""
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free
