"""`memvp-export check`."""

import sys
from pathlib import Path

import click

from .. import console
from .options import AS_JSON, BACKEND, LOWERING, PATH, PRECISION, TRUST, refuse_engine_options
from .report_files import refuse_files_of_dry_run, write_json


@click.command()
@click.argument("bundle", type=PATH)
@BACKEND
@PRECISION
@click.option("--data", type=PATH, help="JSONL requests to answer with bundle and reference.")
@click.option("--source", type=PATH, help="model.toml: run the reference anew on the source's tensors.")
@click.option("--html", type=PATH, help="Write a page with tables and plots.")
@click.option("--report", type=PATH, help="Write the JSON report to this file.")
@click.option("--bisect", is_flag=True, help="Name the first module whose results leave the tolerance.")
@TRUST
@LOWERING
@click.option("--dry-run", is_flag=True, help="Say what would be compared.")
@AS_JSON
def check(
    bundle: Path,
    backend: str,
    precision: str | None,
    data: Path | None,
    source: Path | None,
    html: Path | None,
    report: Path | None,
    bisect: bool,
    trust_bundle: bool,
    lowering: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Prove that a bundle still gives PyTorch's answers; exit code 1 where that was not shown."""
    refuse_files_of_dry_run(dry_run, html=html, report=report)
    from ..bundle import Bundle
    from ..checkpoints.source import read_source
    from ..parity.bisect import bisect as run_bisect
    from ..parity.bisect import require_plain
    from ..parity.bisect_text import lines
    from ..parity.check import check as run_check
    from ..parity.preview import preview_check
    from ..tables import print_parity

    if html:
        from ..parity.page import require_packages, write_check_page

        require_packages()
    refuse_engine_options(trust_bundle, lowering, backend)
    if bisect:
        require_plain(precision)
    opened = Bundle.open(bundle)
    parsed = read_source(source) if source else None
    if dry_run:
        plan = preview_check(opened, precision, data, parsed, backend, trust_bundle, lowering)
        console.print_json(plan) if as_json else click.echo("\n".join(plan["compared"]))
        return console.done(f"dry run: nothing was compared; {len(plan['compared'])} comparisons are planned")
    progress = console.progress()
    found = run_check(opened, backend, precision, data, parsed, progress, trust_bundle, lowering)
    located = run_bisect(opened, precision, parsed, progress, backend=backend) if bisect else None
    whole = found.to_dict() | ({"bisect": located.to_dict()} if located else {})
    if as_json:
        console.print_json(whole)
    else:
        print_parity(found)
    if located and not as_json:
        click.echo("\n".join(lines(located)))
    for note in found.notes:
        console.note(note)
    for failure in found.failures:
        click.echo(f"failed: {failure}", err=True)
    # After what was found is on the screen: a file that cannot be written must not lose it.
    if html:
        write_check_page(found, opened, html)
    if report:
        write_json(report, whole)
    console.done(found.verdict)
    if not found.passed:
        sys.exit(1)
