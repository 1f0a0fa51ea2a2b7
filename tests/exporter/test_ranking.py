"""Retrieval: a file of pairs becomes rankings, by the scores that the reference gives them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export import export_onnx, read_source
from memvp_export.examples.random_vilt import PRESETS, write_source
from memvp_export.exporter.bundle import change
from memvp_export.exporter.data import Answer, Request
from memvp_export.exporter.images import load_image, pixel_mask, preprocess
from memvp_export.exporter.models.family import load
from memvp_export.exporter.models.reference import TorchReference
from memvp_export.exporter.parity.check import GOLDEN, check
from memvp_export.exporter.ranking import Ranked, rankings
from PIL import Image


def test_scores_are_ranked_by_image_and_by_text() -> None:
    first, second = Path("1.png"), Path("2.png")
    requests = [Request("a", "x", first), Request("b", "y", first), Request("c", "x", second), Request("d", "z", first)]
    answers = {name: Answer(name, text, ()) for name, text in zip("abcd", ("-0.5", "1e1", "3", "-0.5"), strict=True)}
    by_image, by_text = rankings(requests, answers)
    assert (by_image.by, by_image.query, by_text.by, by_text.query) == ("image", "1.png", "text", "x")
    assert by_image.pairs == (Ranked("b", 10.0), Ranked("a", -0.5), Ranked("d", -0.5))
    assert by_text.pairs == (Ranked("c", 3.0), Ranked("a", -0.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of irtr, its bundle, and five pictures of different sizes."""
    folder, random = tmp_path_factory.mktemp("irtr"), np.random.default_rng(0)
    write_source(folder, replace(PRESETS["odd"], blocks=1), "irtr")
    export_onnx(read_source(folder), folder / "bundle", "fp32")
    for index in range(5):
        pixels = random.integers(0, 256, (60 + 20 * index, 140 - 20 * index, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> Callable[[str, Path], float]:
    """The score of a text of whole words and an image from the official tensors, one pair at a time."""
    model = load(read_source(folder))
    torch_model = TorchReference(model.components, model.reference_weights)
    words = vocabulary(folder)

    def score(text: str, path: Path) -> float:
        image = load_image(path)
        inputs = {
            "input_ids": np.array([[words.index(word) for word in ("[CLS]", *text.split(), "[SEP]")]]),
            "attention_mask": np.ones((1, len(text.split()) + 2), np.int64),
            "pixel_values": preprocess(image, model.preprocessing)[None],
            "pixel_mask": pixel_mask(image, model.preprocessing)[None],
        }
        return float(torch_model.run("model", inputs)["score"][0, 0])

    return score


def vocabulary(folder: Path) -> list[str]:
    return (folder / "vocab.txt").read_text().splitlines()


def ask(command: Callable[..., Any], folder: Path, pairs: list[dict[str, str]], *words: object) -> Any:
    """What `run --data` prints of the pairs, in batches of two."""
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    asked = ("--data", folder / "pairs.jsonl", "-o", folder / "scores.jsonl", "--batch", 2)
    return command("run", folder / "bundle", *asked, *words)


def test_one_image_ranks_many_texts(
    folder: Path, reference: Callable[[str, Path], float], command: Callable[..., Any]
) -> None:
    words = vocabulary(folder)
    texts = [" ".join(words[i : i + 1 + i % 4]) for i in range(10, 110, 20)]
    pairs = [{"id": f"t{i}", "text": text, "image": "3.png"} for i, text in enumerate(texts)]
    done = ask(command, folder, pairs, "--json")
    (ranking,) = json.loads(done.out)["rankings"]
    scores = {pair["id"]: reference(pair["text"], folder / "3.png") for pair in pairs}
    best_first = sorted(scores, key=lambda name: -scores[name])
    assert (ranking["by"], ranking["query"]) == ("image", str(folder / "3.png"))
    assert [pair["id"] for pair in ranking["pairs"]] == best_first
    found = [pair["score"] for pair in ranking["pairs"]]
    np.testing.assert_allclose(found, [scores[name] for name in best_first], rtol=1e-4, atol=1e-5)
    assert len(set(found)) == len(texts)
    lines = [line.split() for line in ask(command, folder, pairs).out.splitlines()]
    assert [line[1] for line in lines if line and line[0].isdecimal()] == best_first


def test_one_text_ranks_many_images(
    folder: Path, reference: Callable[[str, Path], float], command: Callable[..., Any]
) -> None:
    text = " ".join(vocabulary(folder)[20:23])
    pairs = [{"id": f"i{i}", "text": text, "image": f"{i}.png"} for i in range(5)]
    (ranking,) = json.loads(ask(command, folder, pairs, "--json").out)["rankings"]
    scores = {pair["id"]: reference(text, folder / pair["image"]) for pair in pairs}
    assert (ranking["by"], ranking["query"]) == ("text", text)
    assert [pair["id"] for pair in ranking["pairs"]] == sorted(scores, key=lambda name: -scores[name])
    assert len(set(scores.values())) == len(pairs)


def test_a_check_compares_the_scores_from_pixels_and_text(folder: Path, tmp_path: Path) -> None:
    """What is before the graph is in no golden tensor."""
    report = check(folder / "bundle")
    (found,) = (result for result in report.outputs if result.case.startswith("from pixels and text"))
    assert report.passed and not report.answers
    assert (found.output, found.reference, found.shape) == ("score", GOLDEN, (3,))
    root = Path(shutil.copytree(folder / "bundle", tmp_path / "bundle"))
    with change(root) as (writer, manifest):
        preprocessing = manifest["preprocessing"]
        preprocessing["mean"] = [value + 0.1 for value in preprocessing["mean"]]
        writer.write_manifest(manifest)
    report = check(root)
    assert not report.passed and [result.case for result in report.outputs if not result.passed] == [found.case]
