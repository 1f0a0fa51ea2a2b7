"""What `--data` may name: a JSONL file of requests, or the official ScienceQA folder."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .data import Answer, Request, read_requests
from .errors import InputError
from .scienceqa import Accuracy, ScienceQA

if TYPE_CHECKING:
    from .settings import Settings

Scorer = Callable[[Mapping[str, Answer]], dict[str, Accuracy]]


@dataclass(frozen=True)
class Dataset:
    """Requests that can be read more than once. files are what they come from; score, where the data set has an
    official scorer, gives its table from all answers by id; single_pass is the way it is officially answered."""

    files: list[Path]
    requests: Callable[[], Iterator[Request]]
    score: Scorer | None = None
    single_pass: bool = False

    def settings(self, defaults: "Settings") -> "Settings":
        """How these requests are answered: as `defaults` says, or by one greedy token where that is the official way
        (spec 1.6)."""
        return replace(defaults, max_new_tokens=1, temperature=0.0) if self.single_pass else defaults


def open_dataset(path: Path | str, split: str = "test") -> Dataset:
    """A JSONL file, or a ScienceQA folder (problems.json, pid_splits.json, captions.json, images), of which `split`
    is read. Raises InputError where it is neither."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} is not a file.")
    if not path.is_dir():
        return Dataset([path], lambda: read_requests(path))
    data = ScienceQA(path, split)

    def score(answers: Mapping[str, Answer]) -> dict[str, Accuracy]:
        return data.score({name: answer.choice for name, answer in answers.items()})

    return Dataset(data.files, data.requests, score, single_pass=True)
