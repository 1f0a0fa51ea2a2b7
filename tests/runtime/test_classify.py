"""Classes, labels and scores are the Python classifier's, from the same tensors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter import images
from memvp_export.exporter.bundle import new_bundle
from memvp_export.exporter.classifier import Classifier
from memvp_export.exporter.data import Request
from memvp_export.exporter.encoder_tokenizer import EncoderTokenizer
from memvp_export.exporter.engines.profiles import make_profiles
from memvp_export.exporter.engines.shapes import built_ranges
from memvp_export.exporter.errors import ToolError
from PIL import Image

from . import engine_bundle
from .closed_form import port
from .conftest import Refused

Host = Callable[..., Any]
LABELS = ["yes", "no", "zwölf", "red"]
TOKENIZER = {
    "type": "wordpiece",
    "file": "vocab.txt",
    "maximum": 7,
    "pieces": 10,
    "pad": 0,
    "sep": 3,
    "cls": 2,
    "prefix": "",
}
SPEC = images.pixelbert_preprocessing(64, 64, 64, 32)
TEXTS = ["2 5 6 3", "2 3", "2 9 8 7 6 5 4 3", "2 9 8 7 6 5 3"]
SIZES = [(40, 60), (60, 33), (64, 64), (20, 90)]


class Words(EncoderTokenizer):
    """Texts are ids with spaces between them, those that open and close them included."""

    def __init__(self) -> None:
        self.cls, self.sep, self.pad, self.pieces, self.maximum = 2, 3, 0, 10, int(TOKENIZER["maximum"])

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


def entry(images_of: int = 1, masked: bool = True, classes: int = 4, max_batch: int = 3) -> dict[str, Any]:
    suffixes = ["", "_2"][:images_of]
    inputs = [port(name, "int64", "batch", "sequence") for name in ("input_ids", "attention_mask")]
    inputs += [port(f"pixel_values{suffix}", "float32", "batch", 3, 64, 64) for suffix in suffixes]
    inputs += [port(f"pixel_mask{suffix}", "int64", "batch", 64, 64) for suffix in suffixes if masked]
    profiles = make_profiles(inputs, {"batch": [1, max_batch], "sequence": [1, 9]}, max_batch=max_batch)
    return {
        "component": "model",
        "inputs": inputs,
        "outputs": [port("logits", "float32", "batch", classes)],
        "cache": None,
        "profiles": [{"name": each.name, "shapes": each.shapes} for each in profiles],
    }


def manifest(labels: list[str] | None) -> dict[str, Any]:
    return {"family": "apt-vilt", "preprocessing": SPEC, "tokenizer": TOKENIZER, "labels": labels}


def compute(feed: Mapping[str, np.ndarray], classes: int) -> np.ndarray:
    """What the fake model gives: see computeModel of fakes/fake_models.cpp."""
    columns = np.arange(feed["input_ids"].shape[1]) + 1
    sums = (feed["input_ids"] * feed["attention_mask"] * columns).sum(1)
    for name, array in feed.items():
        if name.startswith("pixel_"):
            counted = array if array.dtype == np.int64 else array > 0
            sums = sums + (5 if name.endswith("2") else 3) * counted.reshape(len(array), -1).sum(1)
    return (sums[:, None] * (np.arange(classes) + 2) % 31).astype(np.float32)


class ModelSession:
    def __init__(self, classes: int) -> None:
        self.classes = classes

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Any:
        assert component == "model"
        return {"logits": compute(inputs, self.classes)}


def python(made: dict[str, Any], labels: list[str] | None) -> Classifier:
    session = ModelSession(made["outputs"][0]["dims"][-1])
    return Classifier(session, Words(), SPEC, {**made, "ranges": built_ranges(made)}, labels)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder, made = tmp_path_factory.mktemp("pictures"), []
    for number, (height, width) in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        pixels.tofile(folder / f"{number}.rgb")
        shown = {"rgb": folder / f"{number}.rgb", "height": height, "width": width}
        made.append({"png": folder / f"{number}.png", **shown})
    return made


def asked(pictures: list[dict[str, Any]], images_of: int = 1) -> tuple[list[Request], list[dict[str, Any]]]:
    requests, pairs = [], []
    for number, text in enumerate(TEXTS):
        shown = [pictures[(number + place) % len(pictures)] for place in range(images_of)]
        paths = [Path(each["png"]) for each in shown]
        requests.append(Request(str(number), text, paths[0], paths[1] if images_of > 1 else None))
        pairs.append({"ids": [int(word) for word in text.split()], "images": shown})
    return requests, pairs


@pytest.mark.parametrize(("images_of", "masked"), [(1, True), (2, True), (2, False)])
def test_tensors_are_the_python_classifiers(
    host: Host, pictures: list[dict[str, Any]], tmp_path: Path, images_of: int, masked: bool
) -> None:
    made = entry(images_of, masked)
    requests, pairs = asked(pictures, images_of)
    expected = python(made, LABELS).inputs(requests)
    found = host("classifier inputs", manifest=manifest(LABELS), entry=made, pairs=pairs, folder=tmp_path)
    assert found == {name: [str(array.dtype), list(array.shape)] for name, array in sorted(expected.items())}
    for name, array in expected.items():
        assert (tmp_path / name).read_bytes() == array.tobytes(), name


def test_a_model_that_takes_nothing(host: Host, tmp_path: Path) -> None:
    made = entry()
    for point in ("min", "max"):
        made["profiles"][0]["shapes"]["input_ids"][point][0] = 0
    with pytest.raises(Refused, match="the engine of model takes at most 0 of batch: build it again"):
        host("classifier inputs", manifest=manifest(LABELS), entry=made, pairs=[], folder=tmp_path)


def bundle(root: Path, made: dict[str, Any], labels: list[str] | None) -> Path:
    component = {"inputs": made["inputs"], "outputs": made["outputs"], "ranges": {}, "cache": None}
    with new_bundle(root) as writer:
        for name in ("vocab.txt", "graphs/model.onnx"):
            writer.path(name).write_text(name)
            writer.record(name)
        whole = {**manifest(labels), "task": "vqa", "precision": "fp32", "options": {}, "config": {}, "memory": {}}
        graphs = {"fp32": {"file": "graphs/model.onnx", "opset": 20}}
        whole |= {"generation": None, "components": {"model": {**component, "graphs": graphs}}}
        writer.write_manifest({**whole, "engines": [], "samples": None, "sources": []})
    engine_bundle.enter(root, engine_bundle.whole_entry(made))
    return root


@pytest.mark.parametrize(("labels", "classes"), [(LABELS, 4), (None, 4), (None, 1)])
def test_answers_are_the_python_classifiers(
    engines: Host, pictures: list[dict[str, Any]], tmp_path: Path, labels: list[str] | None, classes: int
) -> None:
    made = entry(classes=classes)
    requests, pairs = asked(pictures)
    expected = python(made, labels).answer(requests)
    engines("open", root=bundle(tmp_path / "b", made, labels), trusted=False, device=0)
    found = engines("classify", pairs=pairs, batch=0)
    assert found == engines("classify", pairs=pairs, batch=1)
    if classes == 1:
        assert [[float(answer.text)] for answer in expected] == [logits for _, _, logits, _ in found]
        assert [name for _, name, _, _ in found] == [""] * 4
    else:
        assert [(answer.text, list(answer.ids)) for answer in expected] == [
            (name, [index]) for index, name, _, _ in found
        ]
        assert len({name for _, name, _, _ in found}) > 1
    assert [answer.truncated for answer in expected] == [cut for *_, cut in found] == [False, False, True, False]


def test_what_cannot_be_classified(engines: Host, pictures: list[dict[str, Any]], tmp_path: Path) -> None:
    made = entry()
    _, pairs = asked(pictures)
    engines("open", root=bundle(tmp_path / "b", made, LABELS), trusted=False, device=0)
    with pytest.raises(Refused, match="pair 1 has 0 images; this model looks at 1"):
        engines("classify", pairs=[pairs[0], {**pairs[1], "images": []}], batch=0)
    with pytest.raises(Refused, match="the text of pair 0 is empty"):
        engines("classify", pairs=[{**pairs[0], "ids": []}], batch=0)
    with pytest.raises(Refused, match="token 10 is not one of the tokenizer's 10"):
        engines("classify", pairs=[{**pairs[0], "ids": [2, 10, 3]}], batch=0)
    with pytest.raises(Refused, match="batch is 4; the model takes at most 3"):
        engines("classify", pairs=pairs, batch=4)
    with pytest.raises(ToolError) as expected:
        python(made, LABELS[1:])
    engines("open", root=bundle(tmp_path / "c", made, LABELS[1:]), trusted=False, device=0)
    with pytest.raises(Refused) as refused:
        engines("classify", pairs=pairs, batch=0, lane="other")
    assert str(refused.value) == str(expected.value)
