"""The source of an export: family, task, files and options, from a model.toml or from flags (docs/model-toml.md)."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError
from .hub import parse_reference, resolve
from .options import FAMILIES, checked_options, nearest, parsed, unknown

FILE_NAME = "model.toml"
KEYS = ("family", "task", "files", "options")


@dataclass(frozen=True)
class Source:
    """A checked source: every file exists, every option has a value of its type. where is the model.toml, if any."""

    family: str
    task: str
    files: dict[str, Path]
    options: dict[str, Any]
    where: Path | None


def read_source(path: Path | str) -> Source:
    """Reads a model.toml, or the one in a folder; its paths are relative to it.

    InputError lists all that is wrong at once: unknown keys with the nearest known one, missing keys, values out of
    range, paths that do not exist. `hf:` references are downloaded after all else is right.
    """
    path = Path(path)
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        detail = f"{path} is a folder without a {FILE_NAME}." if path.is_dir() else f"{path} does not exist."
        raise InputError(f"{detail} Give a {FILE_NAME}, the folder it lies in, or the same as flags.")
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not TOML: {error}") from None
    problems = unknown("key", data, KEYS)
    for section in ("files", "options"):
        if not isinstance(data.get(section, {}), dict):
            raise InputError(f"{file}: {section} is a value, expected a section [{section}].")
    return _source(data.get("family"), data.get("task"), data.get("files", {}), data.get("options", {}), problems, file)


def source_from_flags(
    family: str | None, task: str | None, files: Mapping[str, str], options: Mapping[str, Any]
) -> Source:
    """The same from a command line: paths are relative to the working directory, option values may be texts."""
    known = FAMILIES[family].options if family in FAMILIES else {}
    values = {
        name: parsed(value, known[name]) if name in known and isinstance(value, str) else value
        for name, value in options.items()
    }
    return _source(family, task, files, values, [], None)


def _source(
    name: Any, task: Any, files: Mapping[str, Any], options: Mapping[str, Any], problems: list[str], where: Path | None
) -> Source:
    title = str(where) if where else "The source"
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        reason = "family is missing" if name is None else f"unknown family {name!r}{nearest(str(name), FAMILIES)}"
        _refuse(title, [*problems, reason])
    task = family.tasks[0] if task is None else task
    if task not in family.tasks:
        problems.append(f"{name} has no task {task!r} (known: {', '.join(family.tasks)})")
    values, wrong = checked_options(options, family.options)
    problems += wrong
    if not wrong and values.get("max_new_tokens", 0) >= values.get("max_sequence", math.inf):
        problems.append("option max_new_tokens is larger than max_sequence - 1: the prompt needs a token of it too")

    folder = where.parent if where else Path()
    problems += unknown("file", files, (*family.files, *family.optional))
    keys = (*family.files, *(key for key in family.optional if key in files))
    paths: dict[str, Path] = {}
    for key in keys:
        problems += _local(key, files, folder, paths)
    if problems:
        _refuse(title, problems)
    paths |= {key: resolve(files[key], folder) for key in keys if key not in paths}
    return Source(name, task, {key: paths[key] for key in keys}, values, where)


def _local(key: str, files: Mapping[str, Any], folder: Path, paths: dict[str, Path]) -> list[str]:
    """Adds a file that is here to `paths`; what is wrong with it otherwise. References to the hub are left open."""
    reference = files.get(key)
    if not reference:
        return [f"files.{key} is missing"]
    if not isinstance(reference, str):
        return [f"files.{key} is {reference!r}, needs a path in quotes"]
    try:
        if parse_reference(reference) is None:
            paths[key] = resolve(reference, folder)
    except InputError as error:
        return [f"files.{key}: {str(error).rstrip('.')}"]
    return []


def _refuse(title: str, problems: list[str]) -> NoReturn:
    raise InputError("\n".join([f"{title} cannot be used:", *(f"  {problem}" for problem in problems)]))
