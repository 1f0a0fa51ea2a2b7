"""The tokenizer keeps to its manifest entry, and damaged files are one clear message."""

import io
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.tokenization import Tokenizer, describe_sentencepiece, describe_t5
from transformers import T5Tokenizer

CORPUS = ["the answer is a red circle", "what colour is the square?", "how many stars are there? (A) one (B) two"]
ENTRY = {"type": "sentencepiece", "file": "tokenizer/tokenizer.model", "prefix": "", "maximum": 512}


def train(**options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 10),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def model() -> bytes:
    return train()


@pytest.fixture
def root(tmp_path: Path, model: bytes) -> Path:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.model").write_bytes(model)
    return tmp_path


def entry(root: Path, **changes: Any) -> dict[str, Any]:
    return {**ENTRY, **describe_sentencepiece(root / ENTRY["file"]), **changes}


def test_there_and_back(root: Path) -> None:
    tokenizer = Tokenizer(root, entry(root))
    ids = tokenizer.encode("the red square")
    assert ids[0] == 1 and 2 not in ids
    assert tokenizer.decode(ids) == "the red square"
    assert ids != tokenizer.encode("the red circle")
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.maximum) == (1, 2, 0, 512)
    assert tokenizer.encode("") == [1]


def test_prefix_is_part_of_the_text(root: Path) -> None:
    plain, prefixed = Tokenizer(root, entry(root)), Tokenizer(root, entry(root, prefix="how many "))
    assert prefixed.encode("stars") == plain.encode("how many stars")


def test_control_tokens_in_a_text_are_text(root: Path) -> None:
    assert 2 not in Tokenizer(root, entry(root)).encode("the </s> answer")


def test_description(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "t.model"
    path.write_bytes(model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    assert describe_sentencepiece(path) == {"type": "sentencepiece", "bos": 1, "eos": 2, "pad": 0, "pieces": pieces}
    path.write_bytes(train(bos_id=-1, pad_id=0, eos_id=1, unk_id=2))
    assert describe_sentencepiece(path) | {"pieces": 0} == {
        "type": "sentencepiece",
        "bos": None,
        "eos": 1,
        "pad": 0,
        "pieces": 0,
    }


def test_without_bos_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / ENTRY["file"]).write_bytes(train(bos_id=-1, pad_id=0, eos_id=1, unk_id=2))
    assert Tokenizer(tmp_path, entry(tmp_path)).encode("") == []


def test_damaged_files_are_refused(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "t.model"
    damaged = [b"", b"garbage", b"\0" * 64, b"PK\x03\x04 zip", b"\n", *(model[: len(model) * i // 9] for i in range(9))]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"t\.model") as caught:
            describe_sentencepiece(path)
        assert "\n" not in str(caught.value)


def test_a_file_cut_between_two_pieces_is_refused(tmp_path: Path, model: bytes) -> None:
    path, at = tmp_path / "t.model", 0
    for _ in range(20):
        at += 2 + model[at + 1]  # pieces are short: tag, length, content
    path.write_bytes(model[:at])
    assert sentencepiece.SentencePieceProcessor(model_proto=model[:at]).get_piece_size() == 20
    with pytest.raises(InputError, match="ends after 20 pieces"):
        describe_sentencepiece(path)


@pytest.mark.parametrize("name", ["missing.model", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="not a file"):
        describe_sentencepiece(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": "wordpiece"}, "wordpiece"),
        ({"file": "../tokenizer.model"}, "outside"),
        ({"eos": 9999}, "eos"),
        ({"bos": "1"}, "bos"),
        ({"pieces": 32000}, "exchanged"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(root: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Tokenizer(root, entry(root, **changes))


def test_an_entry_that_lacks_something_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match="bos, eos, pad"):
        Tokenizer(root, ENTRY)


def test_bad_ids_and_texts_are_refused(root: Path) -> None:
    tokenizer = Tokenizer(root, entry(root))
    for token in (-1, tokenizer.pieces):
        with pytest.raises(InputError, match=f"token {token}"):
            tokenizer.decode([token])
    with pytest.raises(InputError, match="Unicode"):
        tokenizer.encode("half \ud800")


@pytest.fixture
def t5(tmp_path: Path) -> tuple[Tokenizer, T5Tokenizer]:
    """T5's special ids, as the bundle and as transformers read them; the latter adds 100 ids."""
    (tmp_path / "tokenizer").mkdir()
    path = tmp_path / "tokenizer/spiece.model"
    path.write_bytes(train(bos_id=-1, pad_id=0, eos_id=1, unk_id=2, model_type="unigram"))
    described = {**ENTRY, **describe_t5(path), "file": "tokenizer/spiece.model"}
    return Tokenizer(tmp_path, described), T5Tokenizer.from_pretrained(path.parent)


TEXTS = ["what colour?", "  odd   spaces\tand \n lines ", "", "ﬁne ½ Ｆull", "ß中", "(A) one , two .", "THE red-square"]


@pytest.mark.parametrize("text", TEXTS)
def test_t5_reads_as_transformers_does(t5: tuple[Tokenizer, T5Tokenizer], text: str) -> None:
    own, theirs = t5
    assert own.encode(text) == theirs(text).input_ids
    assert own.encode(text)[-1] == own.eos == theirs.eos_token_id and own.pad == theirs.pad_token_id


def test_t5_writes_as_transformers_does(t5: tuple[Tokenizer, T5Tokenizer]) -> None:
    own, theirs = t5
    assert theirs.convert_tokens_to_ids("<extra_id_99>") == own.pieces
    draw, texts = random.Random(0), set()
    for _ in range(50):
        ids = [draw.randrange(own.pieces) for _ in range(7)]
        texts.add(own.decode(ids))
        assert own.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert len(texts) > 40


def test_special_tokens_in_a_text_for_t5_are_text(t5: tuple[Tokenizer, T5Tokenizer]) -> None:
    ids = t5[0].encode("the </s> and <extra_id_0>")
    assert ids.index(1) == len(ids) - 1 and max(ids) < t5[0].pieces
