"""What the classes of a classifier are called, or the labels that an image is compared with: a file of a user's."""

from collections import Counter
from pathlib import Path
from typing import Any

from .data import parse_json
from .errors import InputError
from .small_text import read_small_text


def read_labels(path: Path, classes: int | None = None) -> list[str]:
    """The name of every class, in order; as many as there are where `classes` is None.

    Accepted: a text file with one name a line; a JSON list of names; a JSON object from index to name (`id2label`) or
    from name to index (`label2ans` the other way round), also under a key of that name. Raises InputError where it is
    none of them, or does not name `classes` classes.
    """
    text = read_small_text(path, "file of labels", "Give labels, one a line or as JSON.")
    names = _from_json(text, path) if path.suffix.lower() == ".json" else _lines(text)
    if classes is not None and len(names) != classes:
        raise InputError(f"{path} names {len(names)} classes, the model has {classes}. Wrong file?")
    return names


def read_label_set(path: Path) -> list[str]:
    """The labels that an image is compared with, in a file as of `read_labels`, without spaces around them. Raises
    InputError where it names none, or one that is blank or there twice."""
    names = [name.strip() for name in read_labels(path)]
    problems = [f"label {number} is blank" for number, name in enumerate(names, 1) if not name]
    problems += [f"{name!r} is there twice" for name, count in Counter(names).items() if count > 1]
    if problems or not names:
        raise InputError(f"{path} is no set of labels: {problems[0] if problems else 'it names none'}.")
    return names


def _lines(text: str) -> list[str]:
    """Not `splitlines`, which also breaks names at what Unicode calls the end of a line or a page."""
    return text.removesuffix("\n").split("\n") if text else []


def _from_json(text: str, path: Path) -> list[str]:
    data: Any = parse_json(text, path)
    if isinstance(data, dict):
        data = next((data[key] for key in ("id2label", "id2answer") if isinstance(data.get(key), dict | list)), data)
    if isinstance(data, dict):
        pairs = list(data.items())
        if all(isinstance(index, int) for _, index in pairs):
            pairs = [(index, name) for name, index in pairs]
        by_index = {str(index): name for index, name in pairs}
        data = [by_index.get(str(index)) for index in range(len(pairs))]
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise InputError(f"{path} is neither a list of names nor an object from index to name without gaps.")
    return data
