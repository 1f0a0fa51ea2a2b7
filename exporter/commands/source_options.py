"""The checkpoint of a command: a model.toml, or flags in its place."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..checkpoints.options import FAMILIES
from ..errors import InputError
from .options import pair

if TYPE_CHECKING:
    from ..checkpoints.source import Source

# What any family has, in the order in which they name them.
FILES = tuple(dict.fromkeys(key for family in FAMILIES.values() for key in (*family.files, *family.optional)))


def source_options(command: Any) -> Any:
    """Add an option for each file of a model.toml, its family, its task and its options."""
    for name in reversed(FILES):
        command = click.option(
            f"--{name}", help=f"files.{name} of model.toml: a path or hf:owner/name@revision[:path]."
        )(command)
    command = click.option("--family", help="family of model.toml, where flags take its place.")(command)
    command = click.option("--task", help="task of model.toml.")(command)
    return click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of model.toml.")(
        command
    )


def source_of(path: str | None, flags: dict[str, Any]) -> "Source":
    """What `path` or the flags name. InputError for both or neither."""
    from ..checkpoints.source import read_source, source_from_flags

    files = {name: flags[name] for name in FILES if flags.get(name)}
    options = dict(pair("--option", option, "KEY=VALUE") for option in flags["options"])
    if path is not None:
        if files or options or flags["family"] or flags["task"]:
            raise InputError("give a model.toml or flags in its place, not both.")
        return read_source(Path(path))
    if not files:
        raise InputError(
            "give a source: a model.toml, the folder that holds it, or --family, --base, --vision, ... instead."
        )
    return source_from_flags(flags["family"], flags["task"], files, options)
