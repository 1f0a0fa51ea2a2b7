"""Text <-> token ids with the bundle's tokenizer, under the special ids of its manifest entry."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import EnvironmentLack, InputError

_LARGEST = 256 << 20
# Field numbers of sentencepiece's ModelProto.
_TRAINER_SPEC, _NORMALIZER_SPEC = 2, 3


class Tokenizer:
    """A sentencepiece model with the ids its manifest entry gives.

    Attributes: bos (None where there is none), eos, pad, pieces (how many ids it knows), maximum (the longest sequence
    of the model, in tokens; encode does not cut).
    """

    def __init__(self, root: Path, entry: Mapping[str, Any]) -> None:
        """root is the bundle's folder, entry the manifest's `tokenizer`: type, file, bos, eos, pad, prefix, maximum,
        and pieces where it is known; ends, where texts end with EOS; unk, where the unknown token has no text. Raises
        InputError where the entry and the file do not fit."""
        if entry.get("type") != "sentencepiece":
            raise InputError(
                f"the manifest's tokenizer is of type {entry.get('type')!r}; this version knows sentencepiece."
            )
        if missing := sorted({"file", "bos", "eos", "pad", "prefix", "maximum"} - set(entry)):
            raise InputError(f"the manifest's tokenizer lacks {', '.join(missing)}.")
        path = (root / entry["file"]).resolve()
        if not path.is_relative_to(root.resolve()):
            raise InputError(f"the manifest's tokenizer {entry['file']!r} lies outside the bundle.")
        self._model = _load(path)
        self.pieces = int(self._model.get_piece_size())
        if entry.get("pieces", self.pieces) != self.pieces:
            raise InputError(f"{path} has {self.pieces} pieces, the manifest says {entry['pieces']}: it was exchanged.")
        self.bos = None if entry["bos"] is None else self._id(entry, "bos")
        self.eos = self._id(entry, "eos")
        self.pad = self._id(entry, "pad")
        self._ends = bool(entry.get("ends", False))
        self._textless = {self._id(entry, "unk")} if "unk" in entry else set()
        self.maximum = int(entry["maximum"])
        self._prefix = str(entry["prefix"])

    def _id(self, entry: Mapping[str, Any], name: str) -> int:
        value = entry[name]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < self.pieces:
            raise InputError(f"the manifest's tokenizer has {name} = {value!r}, which is no id of its {self.pieces}.")
        return value

    def encode(self, text: str) -> list[int]:
        """BOS, then the ids of the prefix and the text (spec 1.5), and EOS where texts end with it. Empty text is
        allowed."""
        ids = [int(token) for token in self._model.encode(whole_characters(self._prefix + text))]
        return [*([] if self.bos is None else [self.bos]), *ids, *([self.eos] if self._ends else [])]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; control tokens have none. Raises InputError for an id that is not in the model."""
        if odd := [token for token in ids if not 0 <= token < self.pieces]:
            raise InputError(f"token {odd[0]} is not one of the tokenizer's {self.pieces}: model and tokenizer differ.")
        return str(self._model.decode([int(token) for token in ids if token not in self._textless]))


def whole_characters(text: str) -> str:
    """The text. Raises InputError where it has half a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text is not valid Unicode: it has half a surrogate pair at {error.start}.") from error
    return text


def describe_sentencepiece(path: Path | str) -> dict[str, Any]:
    """What a manifest says of a tokenizer.model: type, bos (None where it has none), eos, pad and pieces.

    pad is 0 where the file names none, as the official code pads (spec 1.5). Raises InputError for a file that is
    missing, empty, cut short or no sentencepiece model, or that has no end-of-sentence token.
    """
    model = _load(Path(path))
    if model.eos_id() < 0:
        raise InputError(f"the tokenizer {path} has no end-of-sentence token, so that no answer would ever end.")
    return {
        "type": "sentencepiece",
        "bos": model.bos_id() if model.bos_id() >= 0 else None,
        "eos": model.eos_id(),
        "pad": max(model.pad_id(), 0),
        "pieces": model.get_piece_size(),
    }


def describe_t5(path: Path | str) -> dict[str, Any]:
    """The same of T5's spiece.model, whose texts have no beginning but an end, and whose unknown token has no text. The
    ids that T5 adds behind the pieces are in no text."""
    described = describe_sentencepiece(path)
    return {**described, "bos": None, "ends": True, "unk": _load(Path(path)).unk_id()}


def _load(path: Path) -> Any:
    import sentencepiece

    try:
        if path.is_file() and path.stat().st_size > _LARGEST:
            raise InputError(f"{path} is no tokenizer.model: it has more than {_LARGEST >> 20} MiB.")
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"the tokenizer {path} is not a file.") from error
    except OSError as error:
        raise EnvironmentLack(f"the tokenizer {path} cannot be read: {error.strerror}.") from error
    problem = f"{path} is not a whole sentencepiece model"
    if not data:
        raise InputError(f"{problem}: it is empty.")
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        fields = set(_fields(data))
    except Exception as error:  # the binding raises RuntimeError, TypeError and others for one and the same damage
        raise InputError(f"{problem} ({error}). Take tokenizer.model from the model's official files again.") from error
    # Pieces come first in the file: one cut between two of them still loads, with fewer ids and without these.
    if not {_TRAINER_SPEC, _NORMALIZER_SPEC} <= fields:
        raise InputError(f"{problem}: it ends after {model.get_piece_size()} pieces. Copy it again.")
    return model


def _fields(data: bytes) -> Iterator[int]:
    """Field numbers of a protobuf message, in order. Raises ValueError or IndexError where it is malformed."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        yield key >> 3
        match key & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(data, at)
                at += size
            case 5:
                at += 4
            case kind:
                raise ValueError(f"wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
