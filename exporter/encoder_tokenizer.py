"""Text -> [CLS], token ids, [SEP], as encoders of BERT's kind and CLIP's take it, under the ids of the bundle's
manifest entry; CLIP calls the two its start and end of text."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .byte_bpe import open_byte_bpe
from .clip_bpe import open_clip_bpe
from .errors import InputError
from .tokenization import whole_characters
from .wordpiece import open_wordpiece

_OPEN: dict[str, Callable[..., tuple[dict[str, Any], Any]]] = {
    "wordpiece": open_wordpiece,
    "byte-bpe": open_byte_bpe,
    "clip-bpe": open_clip_bpe,
}
_FILES = ("file", "merges")
_KEYS = {"file", "pieces", "prefix", "maximum", "cls", "sep", "pad", "unk"}


class EncoderTokenizer:
    """A vocabulary with the ids its manifest entry gives.

    Attributes: cls, sep, pad; eos, which is sep; pieces, how many ids it knows; maximum, the longest text of the model
    in tokens, [CLS] and [SEP] included.
    """

    def __init__(self, root: Path, entry: Mapping[str, Any]) -> None:
        """root is the bundle's folder, entry the manifest's `tokenizer`. Raises InputError where the entry and the
        files do not fit."""
        kind = entry.get("type")
        if kind not in _OPEN:
            *most, last = _OPEN
            known = f"{', '.join(most)} or {last}"
            raise InputError(f"the manifest's tokenizer is of type {kind!r}; this model needs {known}.")
        if missing := sorted(_KEYS - set(entry)):
            raise InputError(f"the manifest's tokenizer lacks {', '.join(missing)}.")
        files = {key: _inside(root, entry[key]) for key in _FILES if key in entry}
        found, self._model = _OPEN[kind](files, entry)
        for key, value in found.items():
            if entry.get(key) != value:
                raise InputError(
                    f"{files['file']} has {key} {value}, the manifest says {entry.get(key)}: it was exchanged."
                )
        self.pieces = int(found["pieces"])
        self.cls, self.sep, self.pad = (int(found[name]) for name in ("cls", "sep", "pad"))
        self.eos = self.sep
        self.maximum = int(entry["maximum"])
        self._prefix = str(entry["prefix"])

    def encode(self, text: str) -> list[int]:
        """[CLS], the ids of the prefix and the text, [SEP]; not cut. Empty text is allowed."""
        whole = whole_characters(self._prefix + text)
        return [self.cls, *self._model.encode(whole, add_special_tokens=False).ids, self.sep]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens have none. Raises InputError for an id that is none."""
        if odd := [token for token in ids if not 0 <= token < self.pieces]:
            raise InputError(f"token {odd[0]} is not one of the tokenizer's {self.pieces}: model and tokenizer differ.")
        return str(self._model.decode([int(token) for token in ids]))


def _inside(root: Path, name: Any) -> Path:
    path = (root / str(name)).resolve()
    if not path.is_relative_to(root.resolve()):
        raise InputError(f"the manifest's tokenizer {name!r} lies outside the bundle.")
    return path
