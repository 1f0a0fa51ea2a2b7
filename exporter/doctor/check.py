"""One line of the doctor's report."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from ..child_process import ChildFailed

DISTRIBUTION = "memvp-export"

Status = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """One thing that was tried. missing: not here; broken: here and does not work. fix says what to do about it.

    needed: exporting and checking on the CPU do not work without it.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""
    needed: bool = False


def tried(name: str, attempt: Callable[[], str], fix: str, needed: bool = False) -> Check:
    """ok with what the attempt returns, broken with the message of a ChildFailed that it raises."""
    try:
        return Check(name, "ok", attempt(), needed=needed)
    except ChildFailed as failure:
        return Check(name, "broken", str(failure), fix, needed)


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def pip_line(extra: str) -> str:
    """The command that installs the packages of an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"


def alone(name: str, distributions: tuple[str, ...], extra: str) -> list[Check]:
    """One Check where any of the distributions is installed, broken where several are: they own the same files, and
    whichever came last wins."""
    found = {one: version for one in distributions if (version := installed_version(one))}
    if not found:
        return []
    detail = ", ".join(f"{one} {version}" for one, version in found.items())
    if len(found) == 1:
        return [Check(name, "ok", detail)]
    fix = f"pip uninstall -y {' '.join(found)} && {pip_line(extra)}"
    return [Check(name, "broken", f"installed over each other: {detail}; only the last one's files are there", fix)]
