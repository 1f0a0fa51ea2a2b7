"""CLIP's byte-level BPE: lower-case words whose last piece ends in `</w>`, between start and end of text."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .bpe_files import BpeFiles, byte_letters, give_files, merged_model, read_bpe
from .errors import InputError

START, END = "<|startoftext|>", "<|endoftext|>"
_MODEL, _SUFFIX = "CLIP", "</w>"
# Special tokens, the ends of English contractions, words, single digits, and runs of anything else but spaces.
_WORDS = "|".join(
    (r"<\|startoftext\|>", r"<\|endoftext\|>", "'s|'t|'re|'ve|'m|'ll|'d", r"[\p{L}]+", r"[\p{N}]", r"[^\s\p{L}\p{N}]+")
)


def describe_clip_bpe(files: Mapping[str, Path], pad_token: str = END) -> dict[str, Any]:
    """What a manifest says of the files: type, pieces, the special ids, and the token that texts are padded with.

    files are those of `bpe_files`. Raises InputError for files that are missing or damaged, and for another tokenizer
    than CLIP's.
    """
    return open_clip_bpe(files, {"pad_token": pad_token})[0]


def open_clip_bpe(files: Mapping[str, Path], entry: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """What the files are, and the model of the library `tokenizers` that they make; of a manifest's entry, `pad_token`.

    Texts are composed (NFC), their spaces made one, and lower-case; `<|endoftext|>` and `<|startoftext|>` in a text are
    these tokens, as in Hugging Face's CLIPTokenizer.
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    letters, pad_token = byte_letters(), str(entry.get("pad_token", END))
    unmerged = [START, END, pad_token, *letters, *(letter + _SUFFIX for letter in letters)]
    found = read_bpe(files, _MODEL, unmerged)
    if found.whole is not None and not _lowers(found.whole):
        raise InputError(
            f"{files['file']} is no tokenizer.json of CLIP, whose words are lower-case. {give_files(_MODEL)}"
        )
    _require_merges(found, unmerged, files)
    model = merged_model(found, files, _MODEL, end_of_word_suffix=_SUFFIX, unk_token=END)
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    model.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    model.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    model.add_special_tokens([START, END])
    start, end, pad = (found.vocabulary[token] for token in (START, END, pad_token))
    described = {"type": "clip-bpe", "pieces": len(found.vocabulary), "pad_token": pad_token}
    return {**described, "cls": start, "sep": end, "pad": pad, "unk": end}, model


def _require_merges(found: BpeFiles, unmerged: Collection[str], files: Mapping[str, Path]) -> None:
    """InputError where tokens have lost their merges, as in a file that was cut at the end of a line: texts would be
    read as other ids."""
    added = [token["content"] for token in (found.whole or {}).get("added_tokens") or []]
    known = {*unmerged, *added, *(first + second for first, second in found.merges)}
    if lost := [token for token in found.vocabulary if token not in known]:
        path = files.get("merges", files["file"])
        raise InputError(f"{path} is damaged: nothing is merged to {lost[0]!r} of its vocabulary. Copy it again.")


def _lowers(whole: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json makes words as CLIP does, as far as it says so by name."""
    suffix = whole["model"].get("end_of_word_suffix")
    return suffix == _SUFFIX and '"Lowercase"' in json.dumps(whole.get("normalizer"))
