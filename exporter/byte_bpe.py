"""RoBERTa's byte-level BPE: what a manifest says of its files, and the model that splits text by them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .bpe_files import byte_letters, give_files, merged_model, read_bpe
from .errors import InputError

_SPECIAL = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
_MASK = "<mask>"
_MODEL = "RoBERTa"


def describe_byte_bpe(files: Mapping[str, Path]) -> dict[str, Any]:
    """What a manifest says of the files: type, pieces and the special ids. Raises InputError for files that are missing
    or damaged, and for another tokenizer than RoBERTa's."""
    return open_byte_bpe(files, {})[0]


def open_byte_bpe(files: Mapping[str, Path], entry: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """What the files are, and the model of the library `tokenizers` that they make, whatever a manifest's entry says.
    The names of special tokens in a text are these tokens, as in RoBERTa's own."""
    from tokenizers import AddedToken, decoders, pre_tokenizers

    found = read_bpe(files, _MODEL, [*_SPECIAL.values(), *byte_letters()])
    _require_roberta(found.whole, files["file"])
    vocabulary = found.vocabulary
    model = merged_model(found, files, _MODEL, end_of_word_suffix="")
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens([*_SPECIAL.values(), AddedToken(_MASK, lstrip=True)][: 5 if _MASK in vocabulary else 4])
    special = {name: vocabulary[token] for name, token in _SPECIAL.items()}
    return {"type": "byte-bpe", "pieces": len(vocabulary), **special}, model


def _require_roberta(whole: Mapping[str, Any] | None, path: Path) -> None:
    """InputError for a tokenizer.json that splits words in another way."""
    if whole is None:
        return
    before = whole.get("pre_tokenizer")
    if not isinstance(before, dict) or (before.get("type"), whole.get("normalizer")) != ("ByteLevel", None):
        raise InputError(f"{path} is no tokenizer.json of a byte-level BPE. {give_files(_MODEL)}")
    if before.get("add_prefix_space", True):
        raise InputError(f"{path} puts a space before every text; RoBERTa does not. {give_files(_MODEL)}")
