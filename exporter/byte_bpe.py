"""RoBERTa's byte-level BPE, which is BART's too: what a manifest says of its files, and the model that splits text by
them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .bpe_files import byte_letters, give_files, merged_model, read_bpe
from .errors import InputError

_SPECIAL = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
_MASK = "<mask>"


def describe_byte_bpe(files: Mapping[str, Path], model: str) -> dict[str, Any]:
    """What a manifest says of the files: type, pieces and the special ids. Raises InputError for files that are missing
    or damaged, and for another tokenizer than that of `model`, "RoBERTa" or "BART"."""
    return _opened(files, model)[0]


def open_byte_bpe(files: Mapping[str, Path], entry: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """What the files are, and the model of the library `tokenizers` that they make, whatever a manifest's entry says.
    The names of special tokens in a text are these tokens, as in RoBERTa's own."""
    return _opened(files, "RoBERTa or BART")


def _opened(files: Mapping[str, Path], model: str) -> tuple[dict[str, Any], Any]:
    from tokenizers import AddedToken, decoders, pre_tokenizers

    found = read_bpe(files, model, [*_SPECIAL.values(), *byte_letters()])
    _require_same_words(found.whole, files["file"], model)
    vocabulary = found.vocabulary
    made = merged_model(found, files, model, end_of_word_suffix="")
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([*_SPECIAL.values(), AddedToken(_MASK, lstrip=True)][: 5 if _MASK in vocabulary else 4])
    special = {name: vocabulary[token] for name, token in _SPECIAL.items()}
    return {"type": "byte-bpe", "pieces": len(vocabulary), **special}, made


def _require_same_words(whole: Mapping[str, Any] | None, path: Path, model: str) -> None:
    """InputError for a tokenizer.json that splits words in another way."""
    if whole is None:
        return
    before = whole.get("pre_tokenizer")
    if not isinstance(before, dict) or (before.get("type"), whole.get("normalizer")) != ("ByteLevel", None):
        raise InputError(f"{path} is no tokenizer.json of a byte-level BPE. {give_files(model)}")
    if before.get("add_prefix_space", True):
        raise InputError(f"{path} puts a space before every text; {model} does not. {give_files(model)}")
