"""`memvp-export doctor`."""

import sys

import click

from .. import console
from .options import AS_JSON


@click.command()
@AS_JSON
def doctor(as_json: bool) -> None:
    """Say what this machine can do, by trying it."""
    from ..doctor import doctor as try_all
    from ..doctor import exit_code
    from ..tables import print_checks

    checks = try_all()
    code = exit_code(checks)
    if as_json:
        console.print_json({"checks": [vars(one) for one in checks], "exit_code": code})
    else:
        print_checks(checks)
    console.done(
        "done: export and ONNX Runtime work here"
        if code == 0
        else "the basic way does not work here: see the fixes above"
    )
    sys.exit(code)
