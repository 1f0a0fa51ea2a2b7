"""What a bench is asked to measure, and how long."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError

# A tail that fewer calls than this could show is not known.
FEWEST_CALLS = 20


@dataclass(frozen=True)
class Options:
    """Sizes left at None are settled by the graphs: `batch` rows at once for throughput (8), prompts of
    `prompt_tokens` (64), decode steps after `past` columns (the prompt's, or 64 where an encoder reads that), each cut
    to what the graphs take.

    new_tokens: also measure whole answers of so many tokens, from image and text. stages: names of `loads.stages_of`,
    None for all. warmup: calls before the measured ones, after the first, which is always kept apart. Every load is
    measured for `iterations` calls at least and `duration` seconds at least. percentiles lie between 0 and 100.
    cuda_graphs: calls of engines are captured, and launched as graphs; see TensorRTSession.
    """

    batch: int | None = None
    prompt_tokens: int | None = None
    past: int | None = None
    new_tokens: int | None = None
    stages: Sequence[str] | None = None
    warmup: int = 3
    iterations: int = FEWEST_CALLS
    duration: float = 1.0
    percentiles: Sequence[float] = (50, 90, 95, 99)
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        for name in ("batch", "prompt_tokens", "past", "new_tokens", "iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1.")
        if self.warmup < 0:
            raise InputError(f"warmup is {self.warmup}; it must be 0 or more.")
        if self.cuda_graphs and not self.warmup:
            raise InputError("warmup is 0; with CUDA graphs it must be at least 1: the call after the first captures.")
        if not 0 <= self.duration < float("inf"):
            raise InputError(f"duration is {self.duration}; it must be 0 seconds or more.")
        if outside := [value for value in self.percentiles if not 0 < value < 100]:
            raise InputError(f"percentile {outside[0]:g} does not lie between 0 and 100.")

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
