"""What an export will write, known before anything is traced."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoints.source import Source
from .disk import free_bytes, require_free
from .errors import InputError
from .graphs.trace import check_opset, default_opset
from .keep_fp32 import is_kept, patterns_of
from .models.family import Model, load
from .parity.golden import golden_bytes
from .parity.latents import STEPS
from .parity.sample_requests import chosen_requests, needs_of
from .precisions import ITEM_SIZE
from .scheduler import make_scheduler, read_scheduler

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
            "notes": list(self.model.notes),
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
    samples: Path | None = None,
) -> Plan:
    """Read the headers of the source's files and settle what was left open; golden: with golden samples, of the JSONL
    file `samples` where there is one. Raises InputError for bad files or samples, an opset that cannot hold the
    precision, or modules to keep in float32 that do not exist.
    """
    if samples is not None and not golden:
        raise InputError(f"{samples} would make golden samples, which are to be left out: give one or the other.")
    model = load(source)
    if samples is not None:
        # Before the long work: what is wrong with the samples is wrong from the start.
        chosen_requests(samples, needs_of(model.components, model.labels, model.task))
    if golden and model.scheduler is not None:
        make_scheduler(read_scheduler(model.scheduler), STEPS)
    precision = precision or model.precision
    opset = opset or default_opset(precision)
    check_opset(opset, precision)
    weights = {part.name: part.weights for part in model.components}
    kept = patterns_of(model.family, weights, keep_fp32, precision)
    narrow, wide = ITEM_SIZE[precision], ITEM_SIZE["fp32"]
    sizes = {
        part.name: sum(
            math.prod(weight.shape) * (wide if weight.float32 or is_kept(name, kept[part.name]) else narrow)
            for name, weight in part.weights.items()
        )
        for part in model.components
    }
    return Plan(model, precision, opset, sizes, golden_bytes(model.components) if golden else 0, kept)


def require_room(size: int, path: Path) -> None:
    """Raise EnvironmentLack where the disk of `path` has not `size` bytes and some headroom."""
    require_free(path, size + HEADROOM)
