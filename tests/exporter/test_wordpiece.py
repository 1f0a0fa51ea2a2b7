"""BERT's tokenizer gives the ids that transformers gives; damaged vocabularies are refused."""

from pathlib import Path

import pytest
from memvp_export.exporter.encoder_tokenizer import EncoderTokenizer
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.wordpiece import describe_wordpiece

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "th", "##is", "?", "cafe", "don", "'", "t", "##s"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(TOKENS) + "\n")
    return path


def tokenizer(path: Path, prefix: str = "", **changed: object) -> EncoderTokenizer:
    entry = {**describe_wordpiece(path), "file": path.name, "prefix": prefix, "maximum": 8, **changed}
    return EncoderTokenizer(path.parent, entry)


@pytest.mark.parametrize("text", ["What is this?", "", "Café IS   this's", "don't\tsee 是", "what is " * 9])
def test_ids_are_those_of_transformers(vocabulary: Path, text: str) -> None:
    from transformers import BertTokenizer

    expected = BertTokenizer(str(vocabulary))(text)["input_ids"]
    assert tokenizer(vocabulary).encode(text) == expected


def test_the_prefix_comes_first_and_without_a_space(vocabulary: Path) -> None:
    assert tokenizer(vocabulary, "what is").encode("?") == [2, 5, 6, 9, 3]
    assert tokenizer(vocabulary, "th").encode("is") == [2, 7, 8, 3]


def test_wrong_vocabularies_are_refused(vocabulary: Path, tmp_path: Path) -> None:
    for text, message in (("what\nis\n", r"lacks \[CLS\]"), ("\n".join([*TOKENS, "is"]), "has 1 tokens twice")):
        other = tmp_path / "other.txt"
        other.write_text(text)
        with pytest.raises(InputError, match=message):
            describe_wordpiece(other)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no text"):
        describe_wordpiece(tmp_path / "binary.txt")
    with pytest.raises(InputError, match="is not a file"):
        describe_wordpiece(tmp_path / "none.txt")
    with pytest.raises(InputError, match="it was exchanged"):
        tokenizer(vocabulary, pieces=14)
    with pytest.raises(InputError, match="lies outside the bundle"):
        tokenizer(vocabulary, file="../vocab.txt")
    with pytest.raises(InputError, match="needs wordpiece"):
        tokenizer(vocabulary, type="sentencepiece")
    with pytest.raises(InputError, match="half a surrogate pair"):
        tokenizer(vocabulary).encode("\ud800")
