"""What the classes of a classifier are called: a file that a user gives beside the checkpoint."""

import json
from pathlib import Path
from typing import Any

from .errors import EnvironmentLack, InputError

_LARGEST = 64 << 20


def read_labels(path: Path, classes: int) -> list[str]:
    """The name of every class, in order.

    Accepted: a text file with one name a line; a JSON list of names; a JSON object from index to name (`id2label`) or
    from name to index (`label2ans` the other way round), also under a key of that name. Raises InputError where it is
    none of them, or does not name `classes` classes.
    """
    try:
        if path.is_file() and path.stat().st_size > _LARGEST:
            raise InputError(f"{path} is no file of labels: it has more than {_LARGEST >> 20} MiB.")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text: labels are one a line, or JSON.") from error
    except OSError as error:
        raise EnvironmentLack(f"{path} cannot be read: {error.strerror}.") from error
    names = _from_json(text, path) if path.suffix == ".json" else text.splitlines()
    if len(names) != classes:
        raise InputError(f"{path} names {len(names)} classes, the model has {classes}. Wrong file?")
    return names


def _from_json(text: str, path: Path) -> list[str]:
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not whole JSON ({error}).") from error
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
