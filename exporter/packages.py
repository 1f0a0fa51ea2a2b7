"""Packages of extras that a command needs, asked for before its work."""

import importlib.util

from .errors import MissingPackage


def require_installed(*packages: str, extra: str) -> None:
    """Raise MissingPackage for the first of `packages`, all of which `extra` brings, that is not here. Imports none."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, extra)
