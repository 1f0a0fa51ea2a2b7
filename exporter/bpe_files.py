"""The files of a byte-level BPE, vocab.json with merges.txt or one tokenizer.json, read and checked for damage."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data import parse_json
from .errors import InputError
from .small_text import read_small_text


@dataclass(frozen=True)
class BpeFiles:
    """token -> id, merges in order, and the parsed tokenizer.json, None for a pair of files."""

    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    whole: dict[str, Any] | None


def bpe_files(path: Path) -> dict[str, Path]:
    """The files of a tokenizer by their key in a manifest's entry: `file`, and `merges` where that is a vocab.json.

    path is a tokenizer.json, or a folder that holds one, or vocab.json and merges.txt; what is not there is refused
    when it is read.
    """
    if not path.is_dir():
        return {"file": path}
    if (path / "tokenizer.json").is_file():
        return {"file": path / "tokenizer.json"}
    return {"file": path / "vocab.json", "merges": path / "merges.txt"}


def read_bpe(files: Mapping[str, Path], model: str, needed: Collection[str]) -> BpeFiles:
    """The vocabulary and merges of files as `bpe_files` names them.

    model is whose tokenizer it should be and needed the tokens that one has, for messages. Raises InputError for files
    that are missing or damaged, and for a vocabulary that lacks a needed token or whose ids have gaps.
    """
    path, give = files["file"], give_files(model)
    found = _read_pair(path, files["merges"], give) if "merges" in files else _read_whole(path, give)
    if missing := [token for token in needed if token not in found.vocabulary]:
        raise InputError(f"{path} is no vocabulary of {model}: it lacks {missing[0]!r}. {give}")
    if sorted(found.vocabulary.values()) != list(range(len(found.vocabulary))):
        size = len(found.vocabulary)
        raise InputError(f"{path} is damaged: its {size} ids are not 0 to {size - 1}.")
    return found


def give_files(model: str) -> str:
    """What to do about files of another model."""
    return f"Give {model}'s tokenizer.json, or a folder with its vocab.json and merges.txt."


def byte_letters() -> list[str]:
    """The characters that stand for the 256 bytes."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def merged_model(found: BpeFiles, files: Mapping[str, Path], model: str, **settings: Any) -> Any:
    """A `Tokenizer` of the library `tokenizers` that merges as `found` says; InputError where its merges are of tokens
    that are not in its vocabulary."""
    from tokenizers import Tokenizer, models

    try:
        return Tokenizer(models.BPE(found.vocabulary, found.merges, continuing_subword_prefix="", **settings))
    except Exception as error:  # the binding raises a bare Exception for a merge of tokens that are not there
        path = files["file"]
        raise InputError(
            f"{files.get('merges', path)} does not belong to {path} ({error}). {give_files(model)}"
        ) from error


def _read_pair(path: Path, merges: Path, give: str) -> BpeFiles:
    vocabulary = _vocabulary(_json(path, give), path, give)
    lines = read_small_text(merges, "tokenizer", give).split("\n")
    # The first line names the format's version.
    pairs = [line for line in lines[1 if lines[0].startswith("#version") else 0 :] if line.strip()]
    return BpeFiles(vocabulary, _pairs(pairs, merges), None)


def _read_whole(path: Path, give: str) -> BpeFiles:
    data = _json(path, give)
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise InputError(f"{path} is no tokenizer.json of a byte-level BPE. {give}")
    added = data.get("added_tokens") or []
    vocabulary = _vocabulary(model.get("vocab"), path, give)
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise InputError(f"{path} is damaged: its added tokens are none.")
    vocabulary |= _vocabulary({token.get("content"): token.get("id") for token in added}, path, give)
    return BpeFiles(vocabulary, _pairs(model.get("merges"), path), data)


def _vocabulary(data: Any, path: Path, give: str) -> dict[str, int]:
    if not isinstance(data, dict) or not all(isinstance(name, str) and type(data[name]) is int for name in data):
        raise InputError(f"{path} holds no vocabulary, an object from token to id. {give}")
    return data


def _pairs(data: Any, path: Path) -> list[tuple[str, str]]:
    """Merges as texts of two tokens, or as lists of two."""
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in data] if isinstance(data, list) else [None]
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise InputError(f"{path} is damaged: merge {number} is not two tokens. Copy it again.")
    return [(first, second) for first, second in pairs]  # type: ignore[misc]


def _json(path: Path, give: str) -> Any:
    if path.suffix == ".model":
        raise InputError(f"{path} is by its name a sentencepiece model, as T5 and LLaMA have one. {give}")
    return parse_json(read_small_text(path, "tokenizer", give), path)
