"""Packages of extras: asked for before a command's work, and missed by their names where they are imported."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import EnvironmentLack, MissingPackage

_OWN = __name__.partition(".")[0]


def require_installed(*packages: str, extra: str) -> None:
    """Raise MissingPackage for the first of `packages`, all of which `extra` brings, that is not here. Imports none."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, extra)


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Around imports, the project's own among them, that need what `extra` brings. Raises MissingPackage for a package
    that is not here, EnvironmentLack for one that is and does not load; what the project's own modules lack is a bug,
    and goes through."""
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package == _OWN:
            raise
        if isinstance(error, ModuleNotFoundError) and package:
            raise MissingPackage(package, extra) from error
        raise EnvironmentLack(
            f"{package or 'a package'} is here but cannot be loaded ({error}): install memvp-export[{extra}] again."
        ) from error
