"""An image and its labels -> the nearest label: what is read, how often, and what is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.examples.random_clip import write_vocabulary
from memvp_export.exporter.bpe_files import bpe_files
from memvp_export.exporter.clip_bpe import describe_clip_bpe
from memvp_export.exporter.data import Request
from memvp_export.exporter.encoder_tokenizer import EncoderTokenizer
from memvp_export.exporter.errors import InputError, VerdictError
from memvp_export.exporter.images import clip_preprocessing
from memvp_export.exporter.label_matcher import LabelMatcher
from memvp_export.exporter.session import Arrays
from memvp_export.exporter.settings import Settings
from PIL import Image

LABELS = ("red", "green", "blue")
SIMILARITY = {"logit_scale": 1.0, "template": "a {}."}
COMPONENTS = {
    "image_encoder": {"ranges": {"batch": [1, 4]}},
    "text_encoder": {"ranges": {"batch": [1, 2], "sequence": [2, 12]}},
}


class Fake:
    """Images are their mean colours; texts are colours by their ids, so that a label's place in a batch is nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.known: dict[tuple[int, ...], np.ndarray] = {}

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        rows = next(iter(inputs.values()))
        self.calls.append((component, len(rows)))
        assert len(rows) <= COMPONENTS[component]["ranges"]["batch"][1]
        if component == "image_encoder":
            return {"image_embeds": rows.mean((2, 3))}
        texts = [tuple(row[mask == 1]) for row, mask in zip(rows, inputs["attention_mask"], strict=True)]
        return {"text_embeds": np.stack([self.known.get(text, np.zeros(3)) for text in texts]).astype(np.float32)}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> EncoderTokenizer:
    folder = write_vocabulary(tmp_path_factory.mktemp("clip"), 530)
    files = {key: path.name for key, path in bpe_files(folder).items()}
    return EncoderTokenizer(folder, {**describe_clip_bpe(bpe_files(folder)), **files, "prefix": "", "maximum": 20})


@pytest.fixture
def session(tokenizer: EncoderTokenizer) -> Fake:
    fake = Fake()
    for template in ("a {}.", "{}!"):
        for axis, label in enumerate(LABELS):
            # The other template means the next colour.
            point = np.roll(np.eye(3)[axis], template == "{}!")
            fake.known[tuple(tokenizer.encode(template.replace("{}", label)))] = point
    return fake


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in LABELS]
    for path, colour in zip(paths, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
        Image.new("RGB", (20, 10), colour).save(path)
    return paths


def matcher(session: Any, tokenizer: EncoderTokenizer, labels: Any = LABELS, **similarity: Any) -> LabelMatcher:
    parts = clip_preprocessing(8), COMPONENTS, SIMILARITY | similarity
    return LabelMatcher(session, tokenizer, *parts, labels)


def test_the_nearest_label_is_the_answer(session: Fake, tokenizer: EncoderTokenizer, pictures: list[Path]) -> None:
    made = matcher(session, tokenizer)
    answers = made.answer(Request(path.stem, "", path) for path in pictures)
    assert [(answer.text, answer.ids, answer.choice) for answer in answers] == [
        (label, (index,), None) for index, label in enumerate(LABELS)
    ]
    top = answers[1].top
    assert top[0][0] == "green" and sum(share for _, share in top) == pytest.approx(1)
    (pixels,) = made.inputs([Request("1", "", pictures[1])]).values()
    logits = np.e * pixels.mean((0, 2, 3))
    assert dict(top) == pytest.approx(dict(zip(LABELS, np.exp(logits) / np.exp(logits).sum(), strict=True)))


def test_a_requests_own_labels_and_template_go_first(
    session: Fake, tokenizer: EncoderTokenizer, pictures: list[Path]
) -> None:
    made = matcher(session, tokenizer)
    (other,) = made.answer([Request("1", "{}!", pictures[0])])
    assert other.text == "blue"
    (chosen,) = made.answer([Request("1", "", pictures[2], choices=("green", "blue"))])
    assert (chosen.text, chosen.ids, chosen.choice) == ("blue", (1,), 1)
    assert made.score([Request("1", "", pictures[2], choices=("green", "blue"))]) == [chosen]
    # These are no letters.
    many = (*map(str, range(30)), "blue")
    assert made.answer([Request("1", "", pictures[2], choices=many)])[0].choice == 30


def test_labels_are_read_once(session: Fake, tokenizer: EncoderTokenizer, pictures: list[Path]) -> None:
    made = matcher(session, tokenizer)
    requests = [Request(str(i), "", pictures[i % 3]) for i in range(9)]
    answers = made.answer(requests, Settings(batch=4))
    assert [answer.text for answer in answers] == [LABELS[i % 3] for i in range(9)]
    texts = [rows for name, rows in session.calls if name == "text_encoder"]
    images = [rows for name, rows in session.calls if name == "image_encoder"]
    # At most as many at once as the graph takes.
    assert texts == [2, 1] and images == [4, 4, 1]
    made.answer([Request("1", "", pictures[0], choices=("red", "blue"))])
    assert sum(name == "text_encoder" for name, _ in session.calls) == 2
    made.answer([Request("1", "", pictures[0], choices=("red", "mauve"))])
    assert session.calls[-1] == ("text_encoder", 1)


def test_a_label_that_is_too_long_is_said(session: Fake, tokenizer: EncoderTokenizer, pictures: list[Path]) -> None:
    made = matcher(session, tokenizer, ("red", "a b c d e f g h i j k l m n o p q r s t"))
    (long,) = made.answer([Request("1", "", pictures[0])])
    (short,) = made.answer([Request("1", "", pictures[0], choices=("red",))])
    assert long.truncated and not short.truncated
    inputs, _ = made.text_points([Request("1", "", pictures[0])])
    assert inputs["input_ids"].shape == (2, 12) and inputs["input_ids"][1, -1] == tokenizer.sep


def test_what_cannot_be_answered_is_refused(session: Fake, tokenizer: EncoderTokenizer, pictures: list[Path]) -> None:
    made, bare = matcher(session, tokenizer), matcher(session, tokenizer, None)
    for pipeline, request, settings, message in (
        (bare, Request("7", "", pictures[0]), None, "'7' names no labels, and the bundle has none: give --labels"),
        (made, Request("7", "what is it?", pictures[0]), None, r"'7': the template 'what is it\?' must have one \{\}"),
        (made, Request("7", "", pictures[0], choices=("a", " ")), None, "'7' has a choice that is blank"),
        (made, Request("7", "", pictures[0], choices=("a", "a")), None, "'7' has a choice that is blank"),
        (made, Request("7", ""), None, "'7' has 0 images; this model looks at 1"),
        (made, Request("7", "", *pictures[:2]), None, "'7' has 2 images; this model looks at 1"),
        (made, Request("7", "", pictures[0]), Settings(batch=5), "batch is 5; the model takes at most 4"),
        (made, Request("7", "", pictures[0]), Settings(max_new_tokens=2), "generates no text"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline.answer([request], settings)
    for scale in (float("nan"), 80.0, "1", True):
        with pytest.raises(InputError, match=r"logit_scale is .*, which is no factor"):
            matcher(session, tokenizer, logit_scale=scale)
    session.known.clear()
    session.known[tuple(tokenizer.encode("a red."))] = np.full(3, np.nan)
    with pytest.raises(VerdictError, match="gave text_embeds that are not finite"):
        matcher(session, tokenizer).answer([Request("7", "", pictures[0])])
