"""How answers are generated: what a user may ask of any pipeline, and a bundle of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InputError

DEFAULT_BATCH = 8


@dataclass(frozen=True)
class Settings:
    """How answers are generated. temperature 0 takes the most probable token; above it, tokens are drawn among the
    most probable ones that hold `top_p` of the probability. beams above 1: the most probable answer that so many beams
    find, of models that were trained so. batch None: what the graph takes, at most DEFAULT_BATCH.

    The random stream of a row follows from seed and its request's id: batches and their order do not matter.
    """

    max_new_tokens: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch: int | None = None
    beams: int = 1

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        for name, good, wanted in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("seed", self.seed >= 0, "0 or more"),
            ("batch", self.batch is None or self.batch >= 1, "at least 1"),
            ("beams", self.beams >= 1, "at least 1"),
            ("temperature", self.temperature == 0 or self.beams == 1, "0 with beams"),
        ):
            if not good:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {wanted}.")

    def digest_data(self) -> dict[str, Any]:
        """What moves the answers, for AnswerFile; the batch does not."""
        return {name: value for name, value in vars(self).items() if name != "batch"}


def beams_of(manifest: Mapping[str, Any]) -> int:
    """The beams that a bundle's model is used with. Evidence is made without: its tokens can be compared one by one."""
    return int((manifest["generation"] or {}).get("num_beams", 1))
