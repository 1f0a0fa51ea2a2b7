"""RoBERTa's byte-level BPE: its files, what a manifest says of them, and the model that splits text by them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .data import read_json
from .errors import EnvironmentLack, InputError

_LARGEST = 64 << 20
_SPECIAL = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
_MASK = "<mask>"
_GIVE = "Give RoBERTa's tokenizer.json, or a folder with its vocab.json and merges.txt."


def byte_bpe_files(path: Path) -> dict[str, Path]:
    """The files of a tokenizer by their key in a manifest's entry: `file`, and `merges` where that is a vocab.json.

    path is a tokenizer.json, or a folder that holds one, or vocab.json and merges.txt. Raises InputError otherwise.
    """
    if not path.is_dir():
        return {"file": path}
    if (path / "tokenizer.json").is_file():
        return {"file": path / "tokenizer.json"}
    return {"file": path / "vocab.json", "merges": path / "merges.txt"}


def describe_byte_bpe(files: Mapping[str, Path]) -> dict[str, Any]:
    """What a manifest says of the files: type, pieces and the special ids. Raises InputError for files that are missing
    or damaged, and for another tokenizer than RoBERTa's."""
    return open_byte_bpe(files, {})[0]


def open_byte_bpe(files: Mapping[str, Path], entry: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """What the files are, and the model of the library `tokenizers` that they make, whatever a manifest's entry says.
    The names of special tokens in a text are these tokens, as in RoBERTa's own."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    path = files["file"]
    vocabulary, merges = _read_pair(path, files["merges"]) if "merges" in files else _read_whole(path)
    if missing := [token for token in (*_SPECIAL.values(), *_alphabet()) if token not in vocabulary]:
        raise InputError(f"{path} is no vocabulary of RoBERTa: it lacks {missing[0]!r}. {_GIVE}")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise InputError(f"{path} is damaged: its {len(vocabulary)} ids are not 0 to {len(vocabulary) - 1}.")
    try:
        model = Tokenizer(models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    except Exception as error:  # the binding raises a bare Exception for a merge of tokens that are not there
        raise InputError(f"{files.get('merges', path)} does not belong to {path} ({error}). {_GIVE}") from error
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.add_special_tokens([*_SPECIAL.values(), AddedToken(_MASK, lstrip=True)][: 5 if _MASK in vocabulary else 4])
    special = {name: vocabulary[token] for name, token in _SPECIAL.items()}
    return {"type": "byte-bpe", "pieces": len(vocabulary), **special}, model


def _alphabet() -> list[str]:
    """The characters that stand for the 256 bytes."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _read_pair(path: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    vocabulary = _vocabulary(_json(path), path)
    lines = _text(merges).split("\n")
    # The first line names the format's version.
    pairs = [line for line in lines[1 if lines[0].startswith("#version") else 0 :] if line.strip()]
    return vocabulary, _pairs(pairs, merges)


def _read_whole(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    data = _json(path)
    model, before = (data.get(key) if isinstance(data, dict) else None for key in ("model", "pre_tokenizer"))
    if not isinstance(model, dict) or not isinstance(before, dict):
        raise InputError(f"{path} is no tokenizer.json of a byte-level BPE. {_GIVE}")
    if (model.get("type"), before.get("type"), data.get("normalizer")) != ("BPE", "ByteLevel", None):
        raise InputError(f"{path} is no tokenizer.json of a byte-level BPE. {_GIVE}")
    if before.get("add_prefix_space", True):
        raise InputError(f"{path} puts a space before every text; RoBERTa does not. {_GIVE}")
    added = data.get("added_tokens") or []
    vocabulary = _vocabulary(model.get("vocab"), path)
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise InputError(f"{path} is damaged: its added tokens are none.")
    vocabulary |= _vocabulary({token.get("content"): token.get("id") for token in added}, path)
    return vocabulary, _pairs(model.get("merges"), path)


def _vocabulary(data: Any, path: Path) -> dict[str, int]:
    if not isinstance(data, dict) or not all(isinstance(name, str) and type(data[name]) is int for name in data):
        raise InputError(f"{path} holds no vocabulary, an object from token to id. {_GIVE}")
    return data


def _pairs(data: Any, path: Path) -> list[tuple[str, str]]:
    """Merges as texts of two tokens, or as lists of two."""
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in data] if isinstance(data, list) else [None]
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise InputError(f"{path} is damaged: merge {number} is not two tokens. Copy it again.")
    return [(first, second) for first, second in pairs]  # type: ignore[misc]


def _json(path: Path) -> Any:
    _require(path)
    return read_json(path)


def _text(path: Path) -> str:
    _require(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text. {_GIVE}") from error
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be read: {error.strerror}.") from error


def _require(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"the tokenizer {path} is not a file. {_GIVE}")
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path} is no tokenizer of RoBERTa: it has more than {_LARGEST >> 20} MiB.")
