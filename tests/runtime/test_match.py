"""The nearest label of an image is the Python matcher's, over a fake TensorRT and CUDA."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.data import Request
from memvp_export.exporter.engines.profiles import make_profiles
from memvp_export.exporter.engines.shapes import built_ranges
from memvp_export.exporter.errors import ToolError
from memvp_export.exporter.images import clip_preprocessing
from memvp_export.exporter.label_matcher import LabelMatcher
from PIL import Image

from . import engine_bundle
from .closed_form import port
from .conftest import Refused
from .test_classify import Words

Engines = Callable[..., Any]
SIDE, WIDTH, SPEC = 6, 5, clip_preprocessing(6)
# Labels are ids with spaces between them, as Words reads them; the last one is cut.
LABELS = ("5 6", "7", "9 8 4 5", "4 4 4", "6 9", "9 8 7 6 5 4 9 8")
SIMILARITY = {"logit_scale": -3.5, "template": "2 {} 3"}
TOKENIZER = {"type": "clip-bpe", "file": "vocab.txt", "maximum": 8, "pad": 0, "sep": 3, "cls": 2, "pieces": 10}


def entries() -> dict[str, dict[str, Any]]:
    texts = [port(name, "int64", "batch", "sequence") for name in ("input_ids", "attention_mask")]
    made = {}
    for name, output, inputs, ranges in (
        ("image_encoder", "image_embeds", [port("pixel_values", "float32", "batch", 3, SIDE, SIDE)], {"batch": [1, 3]}),
        ("text_encoder", "text_embeds", texts, {"batch": [1, 4], "sequence": [2, 12]}),
    ):
        profiles = [{"name": each.name, "shapes": each.shapes} for each in make_profiles(inputs, ranges)]
        outputs = [port(output, "float32", "batch", WIDTH)]
        made[name] = {"component": name, "inputs": inputs, "outputs": outputs, "cache": None, "profiles": profiles}
    return made


def compute(component: str, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the fake gives: see computePoints of fakes/fake_models.cpp."""
    if component == "image_encoder":
        values = (feed["pixel_values"] > 0).astype(np.int64).reshape(len(feed["pixel_values"]), -1)
    else:
        values = feed["input_ids"] * feed["attention_mask"] * (np.arange(feed["input_ids"].shape[1]) + 1)
    sums = np.stack([values[:, start::WIDTH].sum(1) for start in range(WIDTH)], 1)
    return {component.replace("encoder", "embeds"): (sums % 17 - 8).astype(np.float32)}


class PointsSession:
    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Any:
        return compute(component, inputs)


def python(similarity: Mapping[str, Any] = SIMILARITY) -> LabelMatcher:
    components = {name: {**entry, "ranges": built_ranges(entry)} for name, entry in entries().items()}
    words = Words()
    words.maximum = 8
    return LabelMatcher(PointsSession(), words, SPEC, components, similarity, LABELS)


def bundle(root: Path, **changed: Any) -> Path:
    described = {"preprocessing": SPEC, "tokenizer": TOKENIZER, "generation": None, "similarity": SIMILARITY}
    made = entries()
    whole = {"family": "apt-clip", **described, "labels": list(LABELS), **changed}
    return engine_bundle.make(root, made["text_encoder"], made["image_encoder"], **whole)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, dict[str, Any]]]:
    folder, made = tmp_path_factory.mktemp("pictures"), []
    for number, (height, width) in enumerate([(9, 14), (14, 9), (7, 7), (6, 20), (12, 8)]):
        pixels = np.random.default_rng(number).integers(40 * number, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        pixels.tofile(folder / f"{number}.rgb")
        made.append((folder / f"{number}.png", {"rgb": folder / f"{number}.rgb", "height": height, "width": width}))
    return made


def matched(engines: Engines, pictures: list[tuple[Path, dict[str, Any]]], labels: Any = LABELS, batch: int = 0) -> Any:
    texts = [[int(word) for word in f"2 {label} 3".split()] for label in labels]
    pairs = [{"ids": [], "images": [shown]} for _, shown in pictures]
    return engines("match", pairs=pairs, texts=texts, batch=batch)


@pytest.mark.parametrize("count", [len(LABELS), 2])
def test_labels_and_shares_are_the_python_matchers(
    engines: Engines, tmp_path: Path, pictures: list[tuple[Path, dict[str, Any]]], count: int
) -> None:
    """Labels in two batches or one, the longest cut; images in batches of two sizes."""
    made, labels = python(), LABELS[:count]
    requests = [Request(str(n), "", path, choices=labels) for n, (path, _) in enumerate(pictures)]
    answers, points = made.answer(requests), made.image_points(requests)
    logits = np.array(made.logits(requests, points), np.float64)
    engines("open", root=bundle(tmp_path / "b"), trusted=False, device=0)
    for batch in (0, 2):
        found = matched(engines, pictures, labels, batch)
        assert [index for index, *_ in found] == [answer.ids[0] for answer in answers]
        assert [cut for *_, cut in found] == [answer.truncated for answer in answers]
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose([numbers for _, numbers, _ in found], shares, rtol=1e-6)
    whole = count == len(LABELS)
    assert found[0][2] == whole and len({index for index, *_ in found}) > whole


def test_what_cannot_be_matched(engines: Engines, tmp_path: Path, pictures: list[tuple[Path, dict[str, Any]]]) -> None:
    engines("open", root=bundle(tmp_path / "b"), trusted=False, device=0)
    for labels, batch, message in (
        (LABELS, 4, "batch is 4; the model takes at most 3."),
        ((), 0, "there are no labels to compare the images with."),
        (("10",), 0, "token 10 is not one of the tokenizer's 10: model and tokenizer differ."),
    ):
        with pytest.raises(Refused) as refused:
            matched(engines, pictures, labels, batch)
        assert str(refused.value) == message


@pytest.mark.parametrize("scale", ["3", 70, True])
def test_a_scale_that_is_none(
    engines: Engines, tmp_path: Path, pictures: list[tuple[Path, dict[str, Any]]], scale: Any
) -> None:
    similarity = SIMILARITY | {"logit_scale": scale}
    with pytest.raises(ToolError) as expected:
        python(similarity)
    engines("open", root=bundle(tmp_path / "b", similarity=similarity), trusted=False, device=0)
    with pytest.raises(Refused) as refused:
        matched(engines, pictures)
    assert str(refused.value) == str(expected.value)
