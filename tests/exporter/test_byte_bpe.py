"""RoBERTa's tokenizer gives the ids of transformers, from either form of its files; damaged ones are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memvp_export.examples.random_meter import write_vocabulary
from memvp_export.exporter.bpe_files import bpe_files
from memvp_export.exporter.byte_bpe import describe_byte_bpe
from memvp_export.exporter.encoder_tokenizer import EncoderTokenizer
from memvp_export.exporter.errors import InputError
from tokenizers import AddedToken
from transformers import RobertaTokenizer

SIZE = 400
TEXTS = ("What is this?", "", " a", "Café IS   this's", "don't\tsee 是 🙂\n", "abc " * 9, "a <mask> b</s> <s>", "<pad>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_vocabulary(tmp_path / "roberta", SIZE)
    return tmp_path / "roberta"


def tokenizer(path: Path, **changed: object) -> EncoderTokenizer:
    return EncoderTokenizer(path if path.is_dir() else path.parent, entry_of(path) | changed)


def entry_of(path: Path) -> dict[str, Any]:
    files = bpe_files(path)
    names = {key: file.name for key, file in files.items()}
    return {**describe_byte_bpe(files, "RoBERTa"), **names, "prefix": "", "maximum": 8}


def hugging_face(folder: Path) -> RobertaTokenizer:
    # RoBERTa's own files and transformers 4 say so of this token; version 5 does where it is told.
    mask = AddedToken("<mask>", lstrip=True)
    return RobertaTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), mask_token=mask)


def whole(folder: Path) -> Path:
    """The same as one tokenizer.json, as transformers writes it."""
    path = folder.parent / "tokenizer.json"
    hugging_face(folder).backend_tokenizer.save(str(path))
    return path


def test_ids_are_those_of_transformers(folder: Path) -> None:
    theirs, ours, one_file = hugging_face(folder), tokenizer(folder), tokenizer(whole(folder))
    for text in TEXTS:
        assert ours.encode(text) == one_file.encode(text) == theirs(text)["input_ids"], text
    merged = max(json.loads((folder / "vocab.json").read_text()), key=len)
    assert ours.encode(merged) == theirs(merged)["input_ids"] and len(ours.encode(merged)) < len(merged) + 2
    assert (ours.cls, ours.pad, ours.sep, ours.pieces, ours.maximum) == (0, 1, 2, SIZE, 8)


def test_a_folder_may_hold_either_form(folder: Path) -> None:
    assert set(bpe_files(folder)) == {"file", "merges"}
    (folder / "tokenizer.json").write_bytes(whole(folder).read_bytes())
    assert bpe_files(folder) == {"file": folder / "tokenizer.json"}


def _json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        path = whole(folder)
        data = json.loads(path.read_text())
        change(data)
        (folder / "tokenizer.json").write_text(json.dumps(data))

    return damage


def _vocabulary(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        data = json.loads((folder / "vocab.json").read_text())
        change(data)
        (folder / "vocab.json").write_text(json.dumps(data))

    return damage


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no merges": (lambda folder: (folder / "merges.txt").unlink(), "merges.txt is not a file. Give RoBERTa's"),
    "no vocabulary": (lambda folder: (folder / "vocab.json").unlink(), "vocab.json is not a file"),
    "half a vocabulary": (lambda folder: (folder / "vocab.json").write_text('{"<s>": 0'), "is not whole JSON"),
    "a list": (lambda folder: (folder / "vocab.json").write_text("[1]"), "holds no vocabulary"),
    "ids are texts": (_vocabulary(lambda data: data.update({"<s>": "0"})), "holds no vocabulary"),
    "no start": (_vocabulary(lambda data: data.pop("<s>")), "it lacks '<s>'"),
    "a byte less": (_vocabulary(lambda data: data.pop("Ġ")), "it lacks 'Ġ'"),
    "an id twice": (_vocabulary(lambda data: data.update({"<mask>": 5})), "its 400 ids are not 0 to 399"),
    "foreign merges": (lambda folder: (folder / "merges.txt").write_text("zz zzz\n"), "does not belong to"),
    "no pair": (lambda folder: (folder / "merges.txt").write_text("a b\nc\n"), "merge 2 is not two tokens"),
    "binary merges": (lambda folder: (folder / "merges.txt").write_bytes(b"\xff\xfe\x00"), "is no text"),
    "another model": (
        _json(lambda data: data["model"].update(type="Unigram")),
        "no tokenizer.json of a byte-level BPE",
    ),
    "a normalizer": (_json(lambda data: data.update(normalizer={"type": "Lowercase"})), "no tokenizer.json of a byte"),
    "a space first": (_json(lambda data: data["pre_tokenizer"].update(add_prefix_space=True)), "puts a space before"),
    "odd tokens": (_json(lambda data: data.update(added_tokens=[1])), "its added tokens are none"),
    "odd merges": (_json(lambda data: data["model"].update(merges=[["a", 1]])), "merge 1 is not two tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_files_are_refused(folder: Path, case: str) -> None:
    damage, message = BAD[case]
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        describe_byte_bpe(bpe_files(folder), "RoBERTa")
    assert "\n" not in str(caught.value)


def test_whose_tokenizer_is_wanted_is_said(folder: Path) -> None:
    entry = entry_of(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(InputError, match=r"Give BART's tokenizer\.json, or a folder"):
        describe_byte_bpe(bpe_files(folder), "BART")
    with pytest.raises(InputError, match=r"Give RoBERTa or BART's tokenizer\.json"):
        EncoderTokenizer(folder, entry)


def test_an_entry_that_does_not_fit_is_refused(folder: Path) -> None:
    for changed, message in (
        ({"pieces": 5}, "has pieces 400, the manifest says 5: it was exchanged"),
        ({"pad": 7}, "has pad 1, the manifest says 7"),
        ({"merges": "../../merges.txt"}, "lies outside the bundle"),
        ({"type": "sentencepiece"}, "this model needs wordpiece, byte-bpe or clip-bpe"),
    ):
        with pytest.raises(InputError, match=message):
            tokenizer(folder, **changed)
    with pytest.raises(InputError, match="half a surrogate pair"):
        tokenizer(folder).encode("\ud800")
