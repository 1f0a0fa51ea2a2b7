"""The official prompt, character by character; requests and the accuracy table from small official-looking files."""

import json
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.scienceqa import ScienceQA, prompt

PROMPTS = [
    (
        ("Which is a solid?", "States matter.", ["milk", "a rock"], ""),
        "Question: Which is a solid?\nContext: States matter.\nOptions: (A) milk (B) a rock\nResponse:The answer is",
    ),
    (
        ("Which?", "", ["x", "y", "z", "v", "w"], ""),
        "Question: Which?\nContext: N/A\nOptions: (A) x (B) y (C) z (D) v (E) w\nResponse:The answer is",
    ),
    (
        ("Which?", "", ["x"], "A map."),
        "Question: Which?\nContext: A map.\nOptions: (A) x\nResponse:The answer is",
    ),
    (
        ("Which?", "Look.", ["x"], "A map."),
        "Question: Which?\nContext: Look. A map.\nOptions: (A) x\nResponse:The answer is",
    ),
    (
        ("Which  one   of    them?", " Look. ", ["x "], " A map. "),
        "Question: Which one  of  them?\nContext: Look.  A map.\nOptions: (A) x \nResponse:The answer is",
    ),
]


@pytest.mark.parametrize(("parts", "expected"), PROMPTS)
def test_prompt(parts: tuple[str, str, list[str], str], expected: str) -> None:
    assert prompt(*parts) == expected


def problem(**changes: Any) -> dict[str, Any]:
    return {
        "question": "Which?",
        "choices": ["x", "y"],
        "hint": "",
        "image": None,
        "answer": 0,
        "subject": "natural science",
        "grade": "grade6",
        "split": "test",
        **changes,
    }


PROBLEMS = {
    "1": problem(image="image.png", answer=1),
    "2": problem(hint="Look.", subject="social science", grade="grade7"),
    "5": problem(hint="See.", image="image.png", subject="language science", grade="grade12"),
    "7": problem(subject="language science", grade="grade1"),
    "9": problem(split="train"),
}


def folder(root: Path, problems: Any = PROBLEMS, name: str = "problems.json") -> Path:
    (root / name).write_text(json.dumps(problems))
    splits = {"test": ["2", "1", "5", "7"], "minitest": ["1"], "train": ["9"]}
    (root / "pid_splits.json").write_text(json.dumps(splits))
    (root / "captions.json").write_text(json.dumps({"captions": {"1": "A map."}}))
    for qid in ("1", "5"):
        (root / "images/test" / qid).mkdir(parents=True, exist_ok=True)
        (root / "images/test" / qid / "image.png").write_bytes(b"x")
    return root


@pytest.mark.parametrize("name", ["problems.json", "problem.json"])
def test_requests(tmp_path: Path, name: str) -> None:
    data = ScienceQA(folder(tmp_path, name=name))
    requests = {request.id: request for request in data.requests()}
    assert list(requests) == ["2", "1", "5", "7"] == data.ids
    assert requests["1"].image == tmp_path / "images/test/1/image.png"
    assert requests["1"].text == prompt("Which?", "", ["x", "y"], "A map.")
    assert (requests["1"].choices, requests["1"].answer) == (("x", "y"), 1)
    assert requests["2"].image is None and requests["2"].text == prompt("Which?", "Look.", ["x", "y"])
    assert [path.name for path in data.files] == [name, "pid_splits.json", "captions.json"]


def test_captions_can_be_left_out_and_small_splits_share_images(tmp_path: Path) -> None:
    (request,) = ScienceQA(folder(tmp_path), "minitest", captions=False).requests()
    assert request.text == prompt("Which?", "", ["x", "y"])
    assert request.image == tmp_path / "images/test/1/image.png"


def test_the_table(tmp_path: Path) -> None:
    data = ScienceQA(folder(tmp_path))
    found = {name: (a.correct, a.total) for name, a in data.score({"1": 1, "2": 1, "5": 0, "7": -1}).items()}
    assert found == {
        "NAT": (1, 1),
        "SOC": (0, 1),
        "LAN": (1, 2),
        "TXT": (1, 2),
        "IMG": (2, 2),
        "NO": (0, 1),
        "G1-6": (1, 2),
        "G7-12": (1, 2),
        "Avg": (2, 4),
    }
    every = data.score({"1": 1, "2": 0, "5": 0, "7": 0})
    assert every["Avg"].percent == 100 and every["SOC"].percent == 100
    assert ScienceQA(tmp_path, "train").score({"9": 0})["IMG"].percent is None


def test_a_partial_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 of 4 questions of test have no answer, as 7"):
        ScienceQA(folder(tmp_path)).score({"1": 1, "2": 1, "5": 0})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"choices": "xy"}, "problem 1 has no choices"),
        ({"question": None}, "problem 1 has no question"),
        ({"choices": []}, "problem 1 has 0 choices"),
        ({"split": "val"}, "images/val/1/image.png"),
    ],
)
def test_unofficial_problems_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    broken = {**PROBLEMS, "1": problem(image="image.png", **change)}
    with pytest.raises(InputError, match=words):
        list(ScienceQA(folder(tmp_path, broken)).requests())


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"problems\.json"):
        ScienceQA(tmp_path)
    with pytest.raises(InputError, match="no split 'dev'; it has test"):
        ScienceQA(folder(tmp_path), "dev")
    with pytest.raises(InputError, match="no problem 7"):
        list(ScienceQA(folder(tmp_path, {k: v for k, v in PROBLEMS.items() if k != "7"})).requests())
    (tmp_path / "captions.json").unlink()
    with pytest.raises(InputError, match=r"captions\.json is not a file"):
        ScienceQA(tmp_path)
    (tmp_path / "problems.json").write_text("[]")
    with pytest.raises(InputError, match="no official"):
        ScienceQA(tmp_path, captions=False)
