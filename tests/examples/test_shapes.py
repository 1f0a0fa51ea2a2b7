"""The shapes example: its data is what it says, and its committed model sees."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from memvp_export import export_onnx, read_source
from memvp_export.examples import shapes
from memvp_export.examples.shapes.evaluate import Result, evaluate
from memvp_export.examples.shapes.files import MODEL
from memvp_export.examples.shapes.lessons import SEED as TRAINING_SEED
from memvp_export.examples.shapes.questions import TYPES, Question, question, questions
from memvp_export.examples.shapes.scenes import HEIGHT, WIDTH, draw, make_scene, split_of
from memvp_export.examples.shapes.write_questions import write_questions
from PIL import Image

FOLDER = Path(shapes.__file__).parent
MEGABYTE = 1_000_000


def test_a_scene_follows_from_its_seed_and_index() -> None:
    scene = make_scene("train", 5, 17)
    assert scene == make_scene("train", 5, 17)
    assert np.array_equal(np.asarray(draw(scene)), np.asarray(draw(make_scene("train", 5, 17))))
    assert draw(scene).size == (WIDTH, HEIGHT)
    assert scene != make_scene("train", 5, 18)
    assert scene != make_scene("train", 6, 17)
    assert question("held-out", 5, 17) == question("held-out", 5, 17)


def test_training_and_held_out_share_no_scene() -> None:
    for seed in (TRAINING_SEED, 1):
        train = [make_scene("train", seed, i) for i in range(1500)]
        held_out = [make_scene("held-out", seed, i) for i in range(500)]
        # By construction: the split is a function of what the picture shows.
        assert {split_of(scene) for scene in train} == {"train"}
        assert {split_of(scene) for scene in held_out} == {"held-out"}
        assert not {scene.key() for scene in train} & {scene.key() for scene in held_out}


def test_a_scene_shows_what_its_answers_say() -> None:
    for index in range(200):
        scene, asked = question("train", 3, index)
        four = questions(scene, random.Random(0))
        assert [q.type for q in four] == ["colour", "count", "count", "position"]
        kinds, colours = Counter(s.kind for s in scene.shapes), Counter(s.colour for s in scene.shapes)
        assert kinds[scene.unique.kind] == 1
        assert kinds[scene.counted_kind] == scene.count_of_kind
        assert colours[scene.counted_colour] == scene.count_of_colour
        assert asked.type == TYPES[index % 3]


def test_a_question_alone_does_not_tell_its_answer() -> None:
    """For each text, no answer is far more frequent than the others of its type."""
    seen: dict[str, list[Question]] = {}
    for index in range(6000):
        _, asked = question("train", 4, index)
        seen.setdefault(asked.text, []).append(asked)
    expected = {"colour": 1 / 8, "count": 1 / 5, "position": 1 / 9}
    for rows in seen.values():
        share = Counter(q.answer for q in rows).most_common(1)[0][1] / len(rows)
        # Four standard deviations of a share, for the highest of up to nine answers in each of some forty texts.
        chance = expected[rows[0].type]
        assert share < chance + 4 * (chance * (1 - chance) / len(rows)) ** 0.5, rows[0].text


def test_the_committed_questions_are_the_held_out_ones(tmp_path: Path) -> None:
    write_questions(tmp_path)
    committed = (FOLDER / "questions.jsonl").read_text()
    assert committed == (tmp_path / "questions.jsonl").read_text()
    rows = [json.loads(line) for line in committed.splitlines()]
    assert len(rows) == 64
    for row in rows:
        # Pixels, not bytes: how PNG compresses is up to the library's version.
        with Image.open(FOLDER / row["image"]) as ours, Image.open(tmp_path / row["image"]) as again:
            assert np.array_equal(np.asarray(ours), np.asarray(again))


def test_the_committed_files_are_small() -> None:
    model = sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file())
    images = sum(path.stat().st_size for path in (FOLDER / "images").iterdir())
    assert model < 5 * MEGABYTE
    assert model + images < 5 * MEGABYTE


@pytest.fixture(scope="module", params=[1000, pytest.param(4000, marks=pytest.mark.slow)], ids=str)
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The first held-out questions, or all 4,000, answered by the committed model, exported, in ONNX Runtime."""
    folder = tmp_path_factory.mktemp("shapes") / "bundle"
    return evaluate(export_onnx(read_source(MODEL), folder, "fp32", golden=False), request.param)


def test_the_model_answers_held_out_questions(result: Result) -> None:
    assert 0.95 <= result.accuracy(result.answers) <= 0.99
    for type_ in TYPES:
        assert result.accuracy(result.answers, type_) > result.majority(type_) + 0.6


def test_without_the_image_the_model_guesses(result: Result) -> None:
    for type_ in TYPES:
        assert abs(result.accuracy(result.without_image, type_) - result.majority(type_)) < 0.03


def test_another_image_changes_the_answers(result: Result) -> None:
    assert result.changed() >= 0.6
    for type_ in TYPES:
        assert result.changed(type_) >= 0.6
