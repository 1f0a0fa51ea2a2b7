"""`memvp-export inspect`."""

from pathlib import Path

import click

from .. import console
from ..errors import InputError, VerdictError
from .options import AS_JSON, PATH, pair


@click.command()
@click.argument("path", type=PATH)
@click.option("--shape", "shapes", multiple=True, metavar="NAME=LENGTH", help="A dynamic dimension for the FLOP count.")
@click.option("--flops", is_flag=True, help="Only the multiply-accumulates of every graph.")
@click.option("--compare", type=click.Choice(["deep-prompt"]), help="The same beside deep prompts in APT's place.")
@click.option("--verify", is_flag=True, help="Compare the digests of all files too.")
@AS_JSON
def inspect(path: Path, shapes: tuple[str, ...], flops: bool, compare: str | None, verify: bool, as_json: bool) -> None:
    """Say what is in a bundle, graph or engine: components, types, layers, memory sites, sizes, FLOPs."""
    from ..inspection.flops import costs_of, print_flops
    from ..inspection.path_report import inspect_path
    from ..inspection.render import print_report

    lengths = [_length(shape) for shape in shapes]
    if twice := sorted({name for name, _ in lengths if [other for other, _ in lengths].count(name) > 1}):
        raise InputError(f"--shape {twice[0]} is there twice.")
    report = inspect_path(path, shapes=dict(lengths), verify=verify)
    if flops or compare:
        costs = costs_of(report, bool(compare))
        console.print_json(costs) if as_json else print_flops(str(path), costs, bool(compare))
    else:
        console.print_json(report) if as_json else print_report(report)
    if report.get("faults"):
        raise VerdictError(f"{path} is no whole graph: {'; '.join(report['faults'])}. Copy them together.")
    whole = f"is a whole {report['kind']}"
    if report.get("missing"):
        whole = f"lacks {console.counted(report['missing'], 'file')} that can be made again"
    console.done(f"done: {path} {whole}" + (", all digests match" if verify else ""))


def _length(shape: str) -> tuple[str, int]:
    name, value = pair("--shape", shape, "NAME=LENGTH")
    if not value.isdecimal():
        raise InputError(f"--shape {shape!r} is not NAME=LENGTH.")
    return name, int(value)
