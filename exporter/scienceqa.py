"""ScienceQA from its official files: the 'QCM-A' prompt of MemVP, requests, and the accuracy table (spec 1.6)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data import LETTERS, Request, read_json
from .errors import InputError

_PROBLEMS = ("problems.json", "problem.json")
_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_GRADES = {f"grade{number}": "G1-6" if number <= 6 else "G7-12" for number in range(1, 13)}
SUBSETS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "Avg")
_TYPES = {"question": str, "hint": str, "choices": list, "answer": int}


@dataclass(frozen=True)
class Accuracy:
    """Right answers among all of a subset."""

    correct: int
    total: int

    @property
    def percent(self) -> float | None:
        """Accuracy in percent; None where the subset is empty."""
        return 100 * self.correct / self.total if self.total else None


def prompt(question: str, context: str, choices: list[str], caption: str = "") -> str:
    """The official prompt, up to and with "The answer is" (spec 1.6). context is the problem's hint. Raises InputError
    for more choices than letters."""
    if len(choices) > len(LETTERS):
        raise InputError(f"there are {len(choices)} choices; answers by letter know {len(LETTERS)}.")
    told = f"{context} {caption}".strip() or "N/A"
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    asked = f"Question: {question}\nContext: {told}\nOptions: {options}\nResponse:"
    # One pass over double spaces, as the model was trained: three spaces become two.
    return asked.replace("  ", " ").strip() + "The answer is"


class ScienceQA:
    """One split of the official data folder: problems.json (or problem.json), pid_splits.json, captions.json and
    images/<split>/<qid>/image.png.

    Attributes: files, what was read, for AnswerFile; ids, the question ids in official order.
    """

    def __init__(self, folder: Path | str, split: str = "test", captions: bool = True) -> None:
        """captions=False leaves them out, as the official training scripts do; the official evaluation uses them.

        Raises InputError for files that are missing or are not the official ones.
        """
        self._folder, self._split = Path(folder), split
        problems = next((self._folder / name for name in _PROBLEMS if (self._folder / name).is_file()), None)
        if problems is None:
            raise InputError(f"{self._folder} is no ScienceQA folder: it has no problems.json.")
        self.files = [problems, self._folder / "pid_splits.json"]
        self._problems, splits = (_mapping(path) for path in self.files)
        if split not in splits:
            raise InputError(f"{self.files[1]} has no split {split!r}; it has {', '.join(splits)}.")
        self.ids: list[str] = [str(qid) for qid in splits[split]]
        self._captions: Mapping[str, Any] = {}
        if captions:
            self.files.append(self._folder / "captions.json")
            self._captions = _mapping(self.files[-1]).get("captions", {})

    def requests(self) -> Iterator[Request]:
        """The split as requests, in official order; their answer is an index into their choices."""
        for qid in self.ids:
            problem = self._problem(qid)
            text = prompt(problem["question"], problem["hint"], problem["choices"], self._captions.get(qid, ""))
            yield Request(qid, text, self._image(qid, problem), None, tuple(problem["choices"]), problem["answer"])

    def score(self, predictions: Mapping[str, int | None]) -> dict[str, Accuracy]:
        """Accuracy by SUBSETS from the predicted choice of every id of the split; -1 and None are wrong answers.

        Raises InputError where a prediction is missing, since a partial table is no ScienceQA result.
        """
        missing = [qid for qid in self.ids if qid not in predictions]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(self.ids)} questions of {self._split} have no answer, as {missing[0]}."
            )
        rights: dict[str, list[bool]] = {name: [] for name in SUBSETS}
        for qid in self.ids:
            problem = self._problem(qid)
            for name in _subsets(problem):
                rights[name].append(predictions[qid] == problem["answer"])
        return {name: Accuracy(sum(right), len(right)) for name, right in rights.items()}

    def _problem(self, qid: str) -> Mapping[str, Any]:
        problem = self._problems.get(qid)
        if not isinstance(problem, dict):
            raise InputError(f"{self.files[0]} has no problem {qid}, which {self.files[1]} lists.")
        for key, kind in _TYPES.items():
            if not isinstance(problem.get(key), kind):
                raise InputError(f"{self.files[0]}: problem {qid} has no {key} of the official type {kind.__name__}.")
        if not 1 <= len(problem["choices"]) <= len(LETTERS):
            raise InputError(f"{self.files[0]}: problem {qid} has {len(problem['choices'])} choices.")
        return problem

    def _image(self, qid: str, problem: Mapping[str, Any]) -> Path | None:
        if problem.get("image") is None:
            return None
        # The small splits (minival, minitest) have no image folder of their own.
        path = self._folder / "images" / str(problem.get("split", self._split)) / qid / "image.png"
        if not path.is_file():
            raise InputError(f"the image {path} of problem {qid} does not exist.")
        return path


def _subsets(problem: Mapping[str, Any]) -> Iterator[str]:
    text, image = bool(problem["hint"]), bool(problem.get("image"))
    yield "Avg"
    if problem.get("subject") in _SUBJECTS:
        yield _SUBJECTS[problem["subject"]]
    if problem.get("grade") in _GRADES:
        yield _GRADES[problem["grade"]]
    if text:
        yield "TXT"
    if image:
        yield "IMG"
    if not text and not image:
        yield "NO"


def _mapping(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} is no official ScienceQA file: it holds no JSON object.")
    return data
