"""JSON files that lie beside weights: configs and indexes, read with messages instead of tracebacks."""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..data import read_json
from ..errors import InputError

LARGEST = 64 << 20
REQUIRED: Any = object()


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. InputError where there is none: missing, too large, not JSON, not an object."""
    if path.is_file() and path.stat().st_size > LARGEST:
        raise InputError(f"{path} is larger than {LARGEST >> 20} MiB: that is no config or index file.")
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a JSON {type(data).__name__}, expected an object {{...}}.")
    return data


def integer(data: dict[str, Any], key: str, path: Path, default: Any = REQUIRED) -> Any:
    """data[key] as an int above 0; `default` where the key is absent or null. InputError otherwise."""
    value = _value(data, key, path, default)
    if value is not default and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"{path}: {key} is {value!r}, expected an integer above 0.")
    return value


def number(data: dict[str, Any], key: str, path: Path, default: Any = REQUIRED) -> Any:
    """data[key] as a float above 0; `default` where the key is absent or null. InputError otherwise."""
    value = _value(data, key, path, default)
    if value is default:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise InputError(f"{path}: {key} is {value!r}, expected a number above 0.")
    return float(value)


def flag(data: dict[str, Any], key: str, path: Path, default: bool = False) -> bool:
    """data[key] as a bool; `default` where the key is absent or null. InputError otherwise."""
    value = _value(data, key, path, default)
    if not isinstance(value, bool):
        raise InputError(f"{path}: {key} is {value!r}, expected true or false.")
    return value


def one_of(data: dict[str, Any], key: str, known: Collection[str], path: Path, default: str) -> str:
    """data[key], which is one of the texts `known`; `default` where the key is absent or null. InputError otherwise."""
    value = _value(data, key, path, default)
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{path}: {key} is {value!r}; this version knows {', '.join(known)}.")
    return value


def check_sizes(config: dict[str, Any], sizes: Mapping[str, int], path: Path) -> None:
    """InputError where a config says other sizes than `sizes`, those of the tensors beside it."""
    claims = {key: integer(config, key, path, size) for key, size in sizes.items()}
    wrong = [f"{key} is {claims[key]}, the tensors have {size}" for key, size in sizes.items() if claims[key] != size]
    if wrong:
        raise InputError(f"{path} and the weights beside it are of different models: {'; '.join(wrong)}.")


def _value(data: dict[str, Any], key: str, path: Path, default: Any) -> Any:
    value = data.get(key)
    if value is not None:
        return value
    if default is REQUIRED:
        raise InputError(f"{path} has no {key}: take the file from the same place as the weights.")
    return default
