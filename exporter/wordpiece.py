"""Text -> token ids with BERT's WordPiece, under the special ids of the bundle's manifest entry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import EnvironmentLack, InputError

_LARGEST = 64 << 20
_SPECIAL = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]"}
_KEYS = {"type", "file", "lowercase", "pieces", "prefix", "maximum", *_SPECIAL}


class WordPiece:
    """A BERT vocabulary with the ids its manifest entry gives.

    Attributes: cls, sep, pad; pieces, how many ids it knows; maximum, the longest text of the model in tokens, [CLS]
    and [SEP] included.
    """

    def __init__(self, root: Path, entry: Mapping[str, Any]) -> None:
        """root is the bundle's folder, entry the manifest's `tokenizer`. Raises InputError where the entry and the
        file do not fit."""
        if entry.get("type") != "wordpiece":
            raise InputError(f"the manifest's tokenizer is of type {entry.get('type')!r}; this model needs wordpiece.")
        if missing := sorted(_KEYS - set(entry)):
            raise InputError(f"the manifest's tokenizer lacks {', '.join(missing)}.")
        path = (root / entry["file"]).resolve()
        if not path.is_relative_to(root.resolve()):
            raise InputError(f"the manifest's tokenizer {entry['file']!r} lies outside the bundle.")
        vocabulary = read_vocabulary(path)
        self.pieces = len(vocabulary)
        if entry["pieces"] != self.pieces:
            raise InputError(f"{path} has {self.pieces} pieces, the manifest says {entry['pieces']}: it was exchanged.")
        self.cls, self.sep, self.pad = (vocabulary[_SPECIAL[name]] for name in ("cls", "sep", "pad"))
        self.maximum = int(entry["maximum"])
        self._prefix = str(entry["prefix"])
        self._model = _model(vocabulary, bool(entry["lowercase"]))

    def encode(self, text: str) -> list[int]:
        """[CLS], the ids of the prefix and the text, [SEP]; not cut. Empty text is allowed."""
        try:
            (self._prefix + text).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the text is not valid Unicode: it has half a surrogate pair at {error.start}."
            ) from error
        return [self.cls, *self._model.encode(self._prefix + text, add_special_tokens=False).ids, self.sep]


def describe_wordpiece(path: Path, lowercase: bool = True) -> dict[str, Any]:
    """What a manifest says of a vocab.txt: type, lowercase, pieces and the special ids. Raises InputError as
    `read_vocabulary`."""
    vocabulary = read_vocabulary(path)
    special = {name: vocabulary[token] for name, token in _SPECIAL.items()}
    return {"type": "wordpiece", "lowercase": lowercase, "pieces": len(vocabulary), **special}


def read_vocabulary(path: Path) -> dict[str, int]:
    """token -> id of a vocab.txt: one token a line, ids from 0. Raises InputError for a file that is missing, no text,
    or that lacks a special token or has one twice."""
    try:
        if path.is_file() and path.stat().st_size > _LARGEST:
            raise InputError(f"{path} is no vocab.txt: it has more than {_LARGEST >> 20} MiB.")
        tokens = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"the tokenizer {path} is not a file. Give BERT's vocab.txt.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the tokenizer {path} is no text. Give BERT's vocab.txt.") from error
    except OSError as error:
        raise EnvironmentLack(f"the tokenizer {path} cannot be read: {error.strerror}.") from error
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if missing := [token for token in _SPECIAL.values() if token not in vocabulary]:
        raise InputError(f"{path} is no vocab.txt of BERT: it lacks {', '.join(missing)}.")
    if len(vocabulary) != len(tokens):
        raise InputError(f"{path} is damaged: it has {len(tokens) - len(vocabulary)} tokens twice. Copy it again.")
    return vocabulary


def _model(vocabulary: dict[str, int], lowercase: bool) -> Any:
    from tokenizers.implementations import BertWordPieceTokenizer

    return BertWordPieceTokenizer(vocab=vocabulary, lowercase=lowercase)
