"""`memvp-export bench`."""

from pathlib import Path
from typing import Any

import click

from .. import console
from .options import AS_JSON, LOWERING, PATH, PRECISION, TRUST, refuse_engine_options
from .report_files import refuse_files_of_dry_run, write_json


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(["torch", "onnxruntime", "tensorrt"]),
    help="What to measure; repeat for several (default: all that run here). The first is compared with.",
)
@PRECISION
@click.option("--compare", type=PATH, help="Another bundle, or the JSON of an earlier bench.")
@click.option("--stage", "stages", multiple=True, help="Only this stage; repeat for several.")
@click.option("--batch", type=int, help="Rows at once for throughput (default 8, or what the graphs take).")
@click.option("--prompt-tokens", type=int, help="Columns of a prefill, or of an encoder's text (default 64).")
@click.option("--past", type=int, help="Columns in the cache of a decode step.")
@click.option("--new-tokens", type=int, help="Measure whole answers of so many tokens too.")
@click.option("--warmup", type=int, default=3, show_default=True, help="Calls before the measured ones.")
@click.option("--iterations", type=int, default=20, show_default=True, help="Calls to measure at least.")
@click.option("--duration", type=float, default=1.0, show_default=True, help="Seconds to measure each load at least.")
@click.option("--percentile", "percentiles", type=float, multiple=True, default=(50, 90, 95, 99), show_default=True)
@click.option("--html", type=PATH, help="Write a page with tables.")
@click.option("--report", type=PATH, help="Write the JSON report to this file.")
@TRUST
@LOWERING
@click.option("--cuda-graphs", is_flag=True, help="Capture engines' calls, and launch them as CUDA graphs.")
@click.option("--dry-run", is_flag=True, help="Say what would be measured.")
@AS_JSON
def bench(
    bundle: Path,
    backends: tuple[str, ...],
    precision: str | None,
    compare: Path | None,
    html: Path | None,
    report: Path | None,
    trust_bundle: bool,
    lowering: str | None,
    dry_run: bool,
    as_json: bool,
    **sizes: Any,
) -> None:
    """Measure latency and throughput of every stage, on several backends side by side."""
    refuse_files_of_dry_run(dry_run, html=html, report=report)
    from ..bench.measure import bench as run_bench
    from ..bench.measure import preview_bench
    from ..bench.options import Options
    from ..bench.render import print_bench, print_plan

    if html:
        from ..bench.page import require_packages, write_bench_page

        require_packages()
    # Without any, all that are here are measured.
    refuse_engine_options(trust_bundle, lowering, *(backends or ("tensorrt",)))
    options = Options(**{**sizes, "stages": sizes["stages"] or None})
    asked = (bundle, backends or None, precision, options, compare)
    if dry_run:
        plan = preview_bench(*asked, trust_bundle=trust_bundle, lowering=lowering)
        console.print_json(plan) if as_json else print_plan(plan)
        for note in plan["notes"]:
            console.note(note)
        return console.done(f"dry run: nothing was measured; {len(plan['loads'])} loads are planned")
    found = run_bench(*asked, progress=console.progress(), trust_bundle=trust_bundle, lowering=lowering)
    console.print_json(found.to_dict()) if as_json else print_bench(found)
    for warning in found.warnings:
        click.echo(f"not stable: {warning}", err=True)
    for note in found.notes:
        console.note(note)
    if html:
        write_bench_page(found, html)
    if report:
        write_json(report, found.to_dict())
    console.done(found.verdict)
