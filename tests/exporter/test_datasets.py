"""What --data may name: a JSONL file or a ScienceQA folder, and the official table after a run over one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.data import Answer, read_answers
from memvp_export.exporter.datasets import open_dataset
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.parity.check import GRAPH_ONLY, check
from memvp_export.exporter.run import run_file
from memvp_export.exporter.settings import Settings

PROBLEM = {"hint": "", "image": None, "subject": "natural science", "grade": "grade6", "split": "test"}


@pytest.fixture
def scienceqa(tmp_path: Path) -> Path:
    folder = tmp_path / "scienceqa"
    folder.mkdir()
    problems = {
        "3": {**PROBLEM, "question": "Which is a solid?", "choices": ["milk", "a rock"], "answer": 1},
        "4": {**PROBLEM, "question": "Which is a liquid?", "choices": ["milk", "a rock", "air"], "answer": 0},
    }
    (folder / "problems.json").write_text(json.dumps(problems))
    (folder / "pid_splits.json").write_text(json.dumps({"test": ["3", "4"]}))
    (folder / "captions.json").write_text(json.dumps({"captions": {}}))
    return folder


def test_a_jsonl_file_is_read_again_at_every_call(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n')
    dataset = open_dataset(path)
    assert [request.id for request in dataset.requests()] == [request.id for request in dataset.requests()] == ["a"]
    assert dataset.files == [path] and dataset.score is None and not dataset.single_pass


def test_a_scienceqa_folder_is_its_test_split_with_the_official_scorer(scienceqa: Path) -> None:
    dataset = open_dataset(scienceqa)
    assert [request.id for request in dataset.requests()] == ["3", "4"] and dataset.single_pass
    assert dataset.score is not None
    scores = dataset.score({"3": Answer("3", "B", (1,), 1), "4": Answer("4", "B", (1,), 1)})
    assert (scores["Avg"].correct, scores["Avg"].total) == (1, 2)


def test_a_run_over_scienceqa_scores_one_token_a_question(
    scienceqa: Path, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    assert run_file(bundle_of("fp32"), scienceqa, output) == 2
    answers = list(read_answers(output))
    assert [answer.id for answer in answers] == ["3", "4"]
    # The bundle's own setting is four tokens.
    assert all(len(answer.ids) <= 1 and answer.choice is not None for answer in answers)


@pytest.mark.parametrize("option", ["--temperature", "--max-new-tokens"])
def test_what_is_answered_by_one_greedy_token_takes_no_options_of_generation(
    option: str, scienceqa: Path, bundle_of: Callable[[str], Path], command: Callable[..., Any]
) -> None:
    done = command("run", bundle_of("fp32"), "--data", scienceqa, "--dry-run", option, "1")
    assert done.code == 2 and "by its official way, one greedy token" in done.verdict


def test_a_data_set_says_how_it_is_answered(scienceqa: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"id": "a", "text": "x"}\n')
    defaults = Settings(max_new_tokens=7, temperature=0.5, seed=3, batch=2)
    assert open_dataset(tmp_path / "data.jsonl").settings(defaults) == defaults
    assert open_dataset(scienceqa).settings(defaults) == Settings(1, 0.0, seed=3, batch=2)


def test_a_check_over_scienceqa_answers_as_a_run_does(
    scienceqa: Path, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    report = check(bundle_of("fp32"), data=scienceqa)
    asked = {answer.id: answer for answer in report.answers if answer.reference == GRAPH_ONLY}
    run_file(bundle_of("fp32"), scienceqa, tmp_path / "answers.jsonl")
    assert {answer.id: list(answer.ids) for answer in read_answers(tmp_path / "answers.jsonl")} == {
        name: answer.tokens for name, answer in asked.items()
    }
    assert report.passed and all(answer.correct is not None for answer in asked.values())


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no ScienceQA folder"):
        open_dataset(tmp_path)
