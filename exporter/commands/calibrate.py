"""`memvp-export calibrate`."""

from pathlib import Path
from typing import Any

import click

from .. import console
from ..packages import require_installed
from .options import AS_JSON, PATH, PRECISIONS, QUANTIZED
from .report_files import refuse_files_of_dry_run


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--data", type=PATH, help="Samples like those of use (default: the bundle's own).")
@click.option("--precision", type=QUANTIZED, default="int8", show_default=True)
@click.option(
    "--method",
    type=click.Choice(["max", "percentile", "mse"]),
    default="mse",
    show_default=True,
    help="Where ranges are cut.",
)
@click.option("--smooth-quant/--no-smooth-quant", default=True, help="Move outliers of activations into weights.")
@click.option("--samples", type=int, help="How many samples (default 256; 32 where each is an image to make).")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--rest", type=PRECISIONS, help="Precision of all else (default: the bundle's half type, else fp16).")
@click.option("--include", multiple=True, metavar="PATTERN", help="These layers too, against the rules; repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not these layers; repeat for several.")
@click.option("--budget", help="What may be lost: 0.05 (relative L2) or 0.5pt (points of accuracy).")
@click.option("--sensitivity/--no-sensitivity", default=True, help="Rank the layers by the damage each does alone.")
@click.option("--scales", type=PATH, help="A scale file of the same model in place of data.")
@click.option("--synthetic", is_flag=True, help="Random tokens and noise in place of data.")
@click.option("--html", type=PATH, help="Write the report as a page.")
@click.option("--dry-run", is_flag=True, help="Say which layers would be quantized, and run nothing.")
@AS_JSON
def calibrate(bundle: Path, html: Path | None, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """Find the ranges of activations on real data, and enter quantized graphs into the bundle."""
    refuse_files_of_dry_run(dry_run, html=html)
    require_installed("onnxruntime", extra="cpu")
    from ...calibration.calibrate import calibrate as run_calibration
    from ..bundle import Bundle

    if html:
        from ...calibration.page import write_calibration_page
        from ..parity.page import require_packages

        require_packages()
    opened = Bundle.open(bundle)
    if dry_run:
        from ...calibration.plan import plan_calibration, print_plan

        plan = plan_calibration(opened, **asked)
        console.print_json(plan) if as_json else print_plan(plan)
        layers = sum(one["layers"] for one in plan["components"])
        return console.done(f"dry run: nothing was written; {console.counted(layers, 'layer')} would be quantized")
    found = run_calibration(opened, **asked, progress=console.progress())
    if as_json:
        console.print_json(found.to_dict())
    else:
        rows = [
            (row.component, row.layer, "" if row.alone is None else f"{row.alone:.1e}", row.reason or "quantized")
            for row in found.layers[:20]
        ]
        console.table("the layers that do most damage alone", ("component", "layer", "relative L2", ""), rows)
    if html:
        write_calibration_page(found, opened, html)
    damage = f", relative L2 {found.damage.relative_l2:.2e} against fp32" if found.damage else ""
    console.done(f"done: {console.counted(found.quantized, 'layer')} of {bundle} in {found.mode}{damage}")
