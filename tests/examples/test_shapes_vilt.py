"""The committed APT-ViLT sees, in ONNX Runtime; and its answers need every part of its prompts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from memvp_export import export_onnx, read_source
from memvp_export.examples import shapes
from memvp_export.examples.shapes.evaluate import Result, evaluate
from memvp_export.examples.shapes.questions import TYPES, question
from memvp_export.examples.shapes_vilt.lessons import make_batch
from memvp_export.examples.shapes_vilt.model import LABELS, make_config
from memvp_export.examples.shapes_vilt.save import MODEL, open_tokenizer, write_vocabulary
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.checkpoints.lightning import read_lightning
from memvp_export.exporter.data import read_requests
from memvp_export.exporter.models import apt_vilt
from memvp_export.exporter.models.component import constants_of
from memvp_export.exporter.run import open_pipeline

QUESTIONS = Path(shapes.__file__).parent / "questions.jsonl"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_onnx(read_source(MODEL), tmp_path_factory.mktemp("shapes-vilt") / "bundle", golden=False)


@pytest.fixture(scope="module")
def result(bundle: Bundle) -> Result:
    """600 held-out questions, answered by the committed model, exported, in ONNX Runtime."""
    return evaluate(bundle, 600)


def test_the_model_answers_held_out_questions(result: Result) -> None:
    assert result.accuracy(result.answers) >= 0.95
    for type_ in TYPES:
        assert result.accuracy(result.answers, type_) > 0.9 > result.majority(type_)


def test_on_an_empty_image_the_model_guesses(result: Result) -> None:
    for type_ in TYPES:
        assert result.accuracy(result.without_image, type_) < result.majority(type_) + 0.05


def test_another_image_changes_the_answers(result: Result) -> None:
    for type_ in TYPES:
        assert result.changed(type_) >= 0.6


def test_the_committed_questions_are_answered(bundle: Bundle) -> None:
    questions = list(read_requests(QUESTIONS))
    answers = open_pipeline(bundle).answer(questions)
    assert len(questions) == 64 and np.mean([q.answer == a.text for q, a in zip(questions, answers, strict=True)]) > 0.9


def test_the_committed_files_are_small_and_official() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 5_000_000
    (checkpoint,) = MODEL.glob("*.ckpt")
    # Pickled classes of a training framework that is not here.
    assert b"pytorch_lightning.callbacks.model_checkpoint" in checkpoint.read_bytes()
    sites = [name for name in read_lightning(checkpoint).weights if name.endswith("attn.APT.mm_tokens")]
    assert len(sites) == make_config(1).blocks


def test_the_vocabulary_is_that_of_the_questions(tmp_path: Path) -> None:
    assert write_vocabulary(tmp_path).read_text() == (MODEL / "vocab.txt").read_text()
    tokenizer = open_tokenizer(MODEL / "vocab.txt", 16)
    unknown = (MODEL / "vocab.txt").read_text().splitlines().index("[UNK]")
    for index in range(90):
        ids = tokenizer.encode(question("held-out", 2, index)[1].text)
        assert unknown not in ids and len(ids) <= 16


@pytest.mark.parametrize("leaf", ["mm_tokens", "mm.0.weight", "mm.1.weight", "scale"])
def test_every_tensor_of_every_prompt_moves_the_answers(leaf: str) -> None:
    (checkpoint,) = MODEL.glob("*.ckpt")
    trained = {name: tensor.load() for name, tensor in read_lightning(checkpoint).weights.items()}
    config = make_config(len((MODEL / "vocab.txt").read_text().splitlines()))
    constants = {n: t.load() for n, t in constants_of(apt_vilt.components(config)).items()}
    batch = make_batch(config, open_tokenizer(MODEL / "vocab.txt", config.text_length), 0, 16)

    def logits(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            return apt_vilt.model({**weights, **constants}, config, batch.inputs)

    right, names = logits(trained), [f"transformer.blocks.{i}.attn.APT.{leaf}" for i in range(config.blocks)]
    for name in names:
        # Rounding moves them by 1e-5.
        assert (logits({**trained, name: torch.zeros_like(trained[name])}) - right).abs().max() > 1e-4, name
    without = logits({**trained, **{name: torch.zeros_like(trained[name]) for name in names}})
    assert (without - right).abs().max() > 0.05 * right.std()


def test_lessons_say_which_shapes_a_question_is_about() -> None:
    config = make_config(len((MODEL / "vocab.txt").read_text().splitlines()))
    batch = make_batch(config, open_tokenizer(MODEL / "vocab.txt", config.text_length), 0, 40)
    for asked, class_, type_ in zip(batch.asked, batch.classes, batch.types, strict=True):
        shown, meant = int((asked >= 0).sum()), int((asked == 1).sum())
        answer = LABELS[class_]
        assert shown > 0 and meant <= shown
        assert meant == 1 if TYPES[type_] != "count" else meant <= ("none", "one", "two", "three", "four").index(answer)
