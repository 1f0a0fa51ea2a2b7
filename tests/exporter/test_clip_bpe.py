"""CLIP's tokenizer gives the ids of transformers, from either form of its files; other tokenizers are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from memvp_export.examples.random_clip import write_vocabulary
from memvp_export.exporter.bpe_files import bpe_files
from memvp_export.exporter.clip_bpe import END, START, describe_clip_bpe
from memvp_export.exporter.encoder_tokenizer import EncoderTokenizer
from memvp_export.exporter.errors import InputError
from transformers import CLIPTokenizer

SIZE = 640
TEXTS = (
    "",
    " a  photo\tof\n a cat. ",
    "A PHOTO of a Cat",
    "it's WE'LL don't I'D they're he'S rock'n'roll '",
    "24 7 365 3.14 x2y10 ½ ² Ⅻ",
    "Cafe\u0301 caf\u00e9 ÅNGSTRÖM Straße İstanbul ΣΑΣ",
    "don't 是 你好 🙂🙂 ... !!! a,b;c",
    "snake_case <tag> {}[]() \u00a0 \u3000 end",
    "a <|endoftext|> b <|startoftext|>c",
    "<|EndOfText|>",
    "\u200b\ufeff\x00\x07",
    "abc " * 99,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("clip"), SIZE)


def tokenizer(path: Path, pad_token: str = END, **changed: object) -> EncoderTokenizer:
    files = bpe_files(path)
    described = describe_clip_bpe(files, pad_token)
    entry = {**described, **{key: file.name for key, file in files.items()}, "prefix": "", "maximum": 77}
    return EncoderTokenizer(next(iter(files.values())).parent, entry | changed)


def hugging_face(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def whole(folder: Path, made: Path) -> Path:
    """The same as one tokenizer.json, as transformers writes it."""
    hugging_face(folder).backend_tokenizer.save(str(made / "tokenizer.json"))
    return made / "tokenizer.json"


def test_ids_are_those_of_transformers(folder: Path, tmp_path: Path) -> None:
    theirs, ours, one_file = hugging_face(folder), tokenizer(folder), tokenizer(whole(folder, tmp_path))
    for text in TEXTS:
        assert ours.encode(text) == one_file.encode(text) == theirs(text)["input_ids"], text
    assert ours.encode("A cat") == ours.encode(" a  CAT ") != ours.encode("a dog")
    merged = max(json.loads((folder / "vocab.json").read_text()), key=lambda token: len(token.removesuffix("</w>")))
    assert len(merged) > 3 and len(ours.encode(merged.removesuffix("</w>"))) < len(merged)
    assert (ours.cls, ours.sep, ours.pad, ours.pieces) == (SIZE - 2, SIZE - 1, SIZE - 1, SIZE)


def test_a_text_may_be_padded_with_another_token(folder: Path) -> None:
    assert tokenizer(folder, "!").pad == 0
    with pytest.raises(InputError, match="has pad 0, the manifest says 7: it was exchanged"):
        tokenizer(folder, "!", pad=7)
    with pytest.raises(InputError, match=r"is no vocabulary of CLIP: it lacks '\[PAD\]'"):
        tokenizer(folder, "[PAD]")


def _drop(token: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        data = json.loads((folder / "vocab.json").read_text())
        del data[token]
        (folder / "vocab.json").write_text(json.dumps(data))

    return damage


def _json(**changed: object) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        path = whole(folder, folder)
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return damage


def _half(folder: Path) -> None:
    lines = (folder / "merges.txt").read_text().splitlines(keepends=True)
    (folder / "merges.txt").write_text("".join(lines[: len(lines) // 2]))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no merges": (lambda folder: (folder / "merges.txt").unlink(), "merges.txt is not a file. Give CLIP's"),
    "no start": (_drop(START), r"no vocabulary of CLIP: it lacks '<\|startoftext\|>'"),
    "no word ends": (_drop("a</w>"), "lacks 'a</w>'"),
    "half the merges": (_half, r"merges.txt is damaged: nothing is merged to '\w+(</w>)?' of its vocabulary"),
    "an id less": (_drop("ab"), "its 639 ids are not 0 to 638"),
    "words as they are": (_json(normalizer=None), "no tokenizer.json of CLIP, whose words are lower-case"),
    "no model": (_json(model=None), "no tokenizer.json of a byte-level BPE. Give CLIP's"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_files_are_refused(tmp_path: Path, case: str) -> None:
    damage, message = BAD[case]
    write_vocabulary(tmp_path, SIZE)
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        describe_clip_bpe(bpe_files(tmp_path))
    assert "\n" not in str(caught.value)
