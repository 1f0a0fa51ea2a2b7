"""A folder that goes to the machine that builds: lowered graphs, weights, recipes, the builder itself, and build.sh."""

import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..bundle import Bundle
from ..disk import require_readable, work_folder
from ..errors import EnvironmentLack, InputError
from ..partial import put_in_place
from ..progress import Progress
from .build_engine import PARTS
from .recipes import SUFFIX, write_recipe
from .request import Settled
from .tensorrt_module import MODULES

PACKAGE = "memvp_engine"
_SCRIPT = """#!/bin/sh
# Builds every engine of this folder. PYTHON names a Python from 3.8 on that has TensorRT; options go to each build,
# such as --plugin LIBRARY for a plugin library that was built on this machine.
set -e
cd "$(dirname "$0")"
"""
_README = """# Engines of {bundle}, to be built on this machine

Needs Python 3.8 or newer and the module {needs}; nothing else.

    sh build.sh

builds an engine and a record beside each recipe. Then bring the folder back (weights and graphs may be left out) and
enter the engines into the bundle:

    memvp-export trt BUNDLE --adopt THIS_FOLDER
"""
_PLUGIN = """
## The plugin

These engines leave memory lookups to the plugin, a library with code for this machine's processor and GPU. Build it
here, with `memvp-export plugin build -o libmemvp_plugins.so` or with CMake from the folder `plugins` of memvp-export's
sources, and give it to every build:

    sh build.sh --plugin libmemvp_plugins.so

{carried} Engines run only with the build of the library that they were built with.
"""
_CARRIED = "`plugins/` holds that of the machine ({machine}) which made this folder: it is taken where none is given."
_NOT_CARRIED = "None came with this folder: without one the builds end."


def write_carried(bundle: Bundle, settled: Settled, folder: Path, progress: Progress) -> list[Path]:
    """Make `folder`, whole or not at all, and return its recipes. Raises InputError where something is in it."""
    check_empty(folder)
    target = folder.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with work_folder(target) as work:
            recipes = [write_recipe(bundle, name, settled, work, progress, True) for name in settled.lowerings]
            _write_builder(work, recipes)
            (work / "README.md").write_text(_readme(bundle, settled))
            if target.exists():
                target.rmdir()
            put_in_place(work, target, replace=False)
    except OSError as error:
        raise EnvironmentLack(f"{folder} cannot be written: {error.strerror}.") from error
    return [target / recipe.name for recipe in recipes]


def check_empty(folder: Path) -> None:
    """Raise InputError where a new folder may not take this name."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty: choose another name.")


def _readme(bundle: Bundle, settled: Settled) -> str:
    module, *versions = MODULES[settled.target]
    needs = "{} from {} to below {}".format(module, *(".".join(map(str, version)) for version in versions))
    text = _README.format(bundle=bundle.root.resolve().name, needs=needs)
    if not any(lowering.name == "plugin" for lowering in settled.lowerings.values()):
        return text
    carried = _CARRIED.format(machine=platform.machine()) if settled.library else _NOT_CARRIED
    return text + _PLUGIN.format(carried=carried)


def _write_builder(folder: Path, recipes: Sequence[Path]) -> None:
    package = folder / PACKAGE
    package.mkdir()
    for name in PARTS:
        shutil.copyfile(Path(__file__).with_name(name), package / name)
    lines = [f'${{PYTHON:-python3}} -m {PACKAGE}.build_engine build {recipe.name} "$@"\n' for recipe in recipes]
    (folder / "build.sh").write_text(_SCRIPT + "".join(lines))


def read_carried(folder: Path) -> list[Path]:
    """The recipes of such a folder; InputError where there are none, EnvironmentLack where it may not be read."""
    require_readable(folder)
    recipes = sorted(folder.glob(f"*{SUFFIX}"))
    if not recipes:
        raise InputError(f"{folder} holds no recipes: give a folder that `trt --lower-only` made.")
    return recipes
