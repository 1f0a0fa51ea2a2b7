"""BERT's WordPiece: a vocab.txt, what a manifest says of it, and the model that splits words by it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import InputError
from .small_text import read_small_text

_SPECIAL = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]"}


def describe_wordpiece(path: Path, lowercase: bool = True) -> dict[str, Any]:
    """What a manifest says of a vocab.txt: type, lowercase, pieces and the special ids. Raises InputError as
    `read_vocabulary`."""
    return _description(read_vocabulary(path), lowercase)


def open_wordpiece(files: Mapping[str, Path], entry: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """What the vocab.txt `files["file"]` is, and the model of the library `tokenizers` that a manifest's entry makes of
    it."""
    from tokenizers.implementations import BertWordPieceTokenizer

    vocabulary, lowercase = read_vocabulary(files["file"]), entry.get("lowercase") is True
    return _description(vocabulary, lowercase), BertWordPieceTokenizer(vocab=vocabulary, lowercase=lowercase)


def _description(vocabulary: Mapping[str, int], lowercase: bool) -> dict[str, Any]:
    special = {name: vocabulary[token] for name, token in _SPECIAL.items()}
    return {"type": "wordpiece", "lowercase": lowercase, "pieces": len(vocabulary), **special}


def read_vocabulary(path: Path) -> dict[str, int]:
    """token -> id of a vocab.txt: one token a line, ids from 0. Raises InputError for a file that is missing, no text,
    or that lacks a special token or has one twice."""
    tokens = read_small_text(path, "vocab.txt", "Give BERT's vocab.txt.").splitlines()
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if missing := [token for token in _SPECIAL.values() if token not in vocabulary]:
        raise InputError(f"{path} is no vocab.txt of BERT: it lacks {', '.join(missing)}.")
    if len(vocabulary) != len(tokens):
        raise InputError(f"{path} is damaged: it has {len(tokens) - len(vocabulary)} tokens twice. Copy it again.")
    return vocabulary
