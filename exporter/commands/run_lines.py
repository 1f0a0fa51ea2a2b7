"""What `memvp-export run` says whether a bundle answers or makes images."""

from pathlib import Path

import click

from .. import console


def dry_run_is_done(data: Path, requests: int, what_not: str, as_json: bool) -> None:
    """The end of a dry run over a data file."""
    if as_json:
        console.print_json({"requests": requests})
    console.done(f"dry run: {data} holds {requests} requests; {what_not}")


def warn_truncated(request: str | None = None) -> None:
    """The prompt lost its end: of the request of this id, or the only one."""
    whose = "" if request is None else f" of {request!r}"
    click.echo(f"warning: the prompt{whose} was too long and lost its end", err=True)
