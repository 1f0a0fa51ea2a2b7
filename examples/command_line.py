"""The command line of random sources: sizes that make none are refused with the reason."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..exporter.checkpoints.source import read_source
from ..exporter.errors import EnvironmentLack, InputError
from ..exporter.models.family import load


def command_line(
    description: str | None,
    presets: Mapping[str, Any],
    write: Callable[..., Path],
    tasks: Sequence[str] = (),
    dtypes: Sequence[str] = (),
) -> None:
    """Folder, preset, seed, a flag for every field of the presets' sizes, and task and dtype where there are several.

    Calls `write(folder, sizes, [task], seed, [dtype])`, reads what it wrote as an export would, and prints its path.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", choices=sorted(presets), default="odd")
    for name, choices in (("task", tasks), ("dtype", dtypes)):
        if choices:
            parser.add_argument(f"--{name}", choices=choices, default=choices[0])
    parser.add_argument("--seed", type=int, default=0)
    sizes = type(presets["odd"])
    for name, default in vars(presets["odd"]).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=size if isinstance(default, int) else str)
    args = vars(parser.parse_args())
    folder, preset, seed = (args.pop(name) for name in ("folder", "preset", "seed"))
    task = [args.pop("task")] if tasks else []
    dtype = [getattr(torch, args.pop("dtype"))] if dtypes else []
    chosen = {name: value for name, value in args.items() if value is not None}
    try:
        toml = write(folder, sizes(**{**vars(presets[preset]), **chosen}), *task, seed, *dtype)
        load(read_source(toml))
    except InputError as error:
        parser.error(f"these sizes make no source: {error}")
    except EnvironmentLack as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    print(toml)


def size(text: str) -> int:
    """A number of things; ArgumentTypeError where it is none."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no size")
    return int(text)
