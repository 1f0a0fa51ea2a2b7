"""VQAv2: requests from official-looking files, the official normalization and the soft accuracy by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.vqav2 import accuracy, normalize, read_vqav2, score


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("a red car", "red car"),
        ("The The", ""),
        ("two", "2"),
        ("none", "0"),
        ("twenty", "twenty"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("red, white", "red white"),
        ("black/white", "black white"),
        ("t-shirt", "t shirt"),
        ("2.5", "2.5"),
        ("yes.", "yes"),
        ("u.s.", "us"),
        ("what?!", "what"),
        ("  many   words ", "many words"),
    ],
)
def test_normalization(answer: str, expected: str) -> None:
    assert normalize(answer) == expected


@pytest.mark.parametrize(
    ("matches", "expected"),
    # k of ten gave it: k of the ten subsets have k - 1 matches, the others k.
    [(0, 0), (1, 0.9 / 3), (2, (2 * 1 / 3 + 8 * 2 / 3) / 10), (3, (3 * 2 / 3 + 7) / 10), (4, 1), (9, 1)],
)
def test_soft_accuracy(matches: int, expected: float) -> None:
    people = ["a Red"] * matches + [f"other {i}" for i in range(10 - matches)]
    assert accuracy("red.", people) == pytest.approx(expected)


def test_unanimous_answers_are_not_normalized() -> None:
    assert accuracy("red\n", ["red"] * 10) == 1
    assert accuracy("Red", ["red"] * 10) == 0
    assert accuracy("Red", ["red"] * 9 + ["blue"]) == 1


def files(root: Path, subset: str = "val2014") -> tuple[Path, Path, Path]:
    questions = {
        "data_subtype": subset,
        "questions": [
            {"image_id": 42, "question": "What colour?", "question_id": 42000},
            {"image_id": 7, "question": "How many?", "question_id": 7001},
        ],
    }
    annotations = {
        "annotations": [
            {"question_id": 7001, "answer_type": "number", "answers": [{"answer": "2"}] * 9 + [{"answer": "3"}]},
            {
                "question_id": 42000,
                "answer_type": "other",
                "answers": [{"answer": "red"}] * 2 + [{"answer": "blue"}] * 8,
            },
        ]
    }
    (root / "q.json").write_text(json.dumps(questions))
    (root / "a.json").write_text(json.dumps(annotations))
    images = root / "images"
    images.mkdir(exist_ok=True)
    for number in (42, 7):
        (images / f"COCO_{subset.replace('-dev', '')}_{number:012d}.jpg").write_bytes(b"x")
    return root / "q.json", images, root / "a.json"


def test_requests(tmp_path: Path) -> None:
    questions, images, annotations = files(tmp_path)
    first, second = read_vqav2(questions, images, annotations)
    assert (first.id, first.text, first.image) == ("42000", "What colour?", images / "COCO_val2014_000000000042.jpg")
    assert first.answer == ("red",) * 2 + ("blue",) * 8
    assert second.answer == ("2",) * 9 + ("3",)
    assert next(read_vqav2(questions, images)).answer is None


def test_images_below_their_split_and_test_dev(tmp_path: Path) -> None:
    questions, images, _ = files(tmp_path, "test-dev2015")
    assert next(read_vqav2(questions, images)).image == images / "COCO_test2015_000000000042.jpg"
    nested = tmp_path / "coco"
    nested.mkdir()
    images.rename(nested / "test2015")
    assert next(read_vqav2(questions, nested)).image == nested / "test2015/COCO_test2015_000000000042.jpg"


def test_features_may_stand_for_images(tmp_path: Path) -> None:
    questions, images, _ = files(tmp_path)
    image = images / "COCO_val2014_000000000042.jpg"
    features = image.rename(image.with_suffix(".h5"))
    assert next(read_vqav2(questions, images)).image == features


def test_score(tmp_path: Path) -> None:
    annotations = files(tmp_path)[2]
    found = score({"7001": "two", "42000": "red"}, annotations)
    assert found.by_answer_type == {"number": 100, "other": pytest.approx(60)}
    assert (found.overall, found.questions) == (pytest.approx(80), 2)
    with pytest.raises(InputError, match="1 of 2 questions"):
        score({"7001": "two"}, annotations)


@pytest.mark.parametrize(
    "content", [[], {}, {"questions": 3, "data_subtype": "x"}, {"questions": [{}], "data_subtype": "x"}]
)
def test_unofficial_files_are_refused(tmp_path: Path, content: Any) -> None:
    questions, images, annotations = files(tmp_path)
    for path in (questions, annotations):
        path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="no official VQAv2 question file"):
        list(read_vqav2(questions, images))
    with pytest.raises(InputError, match="no official VQAv2 annotation file"):
        score({}, annotations)


def test_missing_images_and_annotations_are_named(tmp_path: Path) -> None:
    questions, images, annotations = files(tmp_path)
    annotations.write_text(json.dumps({"annotations": []}))
    with pytest.raises(InputError, match="no annotation of question 42000"):
        list(read_vqav2(questions, images, annotations))
    with pytest.raises(InputError, match="no annotations"):
        score({}, annotations)
    (images / "COCO_val2014_000000000042.jpg").unlink()
    with pytest.raises(InputError, match="COCO_val2014_000000000042"):
        list(read_vqav2(questions, images))
