"""`memvp-export onnx`."""

from pathlib import Path
from typing import Any

import click

from .. import console
from ..errors import EnvironmentLack
from ..packages import require_installed
from .options import AS_JSON, PATH, PRECISIONS
from .source_options import source_of, source_options


@click.command()
@click.argument("source", required=False)
@click.option("-o", "--output", type=PATH, required=True, help="The bundle to make.")
@click.option("--precision", type=PRECISIONS, help="Precision of the graphs (default: the checkpoint's own).")
@click.option("--opset", type=int, help="ONNX opset (default 20; 22 for bf16, whose convolutions need it).")
@click.option(
    "--keep-fp32", multiple=True, metavar="PATTERN", help="Modules of half graphs to keep in float32; repeatable."
)
@click.option("--samples", type=PATH, help="JSONL requests to make the golden samples of.")
@click.option("--no-golden", is_flag=True, help="Leave the golden samples out: `check` will then need the source.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle of this name.")
@click.option("--dry-run", is_flag=True, help="Read the source and print what would be written.")
@source_options
@AS_JSON
def onnx(
    source: str | None,
    output: Path,
    precision: str | None,
    opset: int | None,
    keep_fp32: tuple[str, ...],
    samples: Path | None,
    no_golden: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Export an official checkpoint to a bundle of ONNX graphs.

    SOURCE is a model.toml or the folder that holds it; flags can take its place.
    """
    require_installed("torch", "onnxscript", "safetensors", extra="export")
    from .. import export
    from ..bundle import check_place
    from ..plan import plan_export
    from ..tables import print_plan

    parsed = source_of(source, flags)
    if dry_run:
        check_place(output, overwrite)
        plan = plan_export(parsed, precision, opset, not no_golden, keep_fp32, samples).to_dict(output)
        console.print_json(plan) if as_json else print_plan(plan)
        for note in plan["notes"]:
            console.note(note)
        if not plan["fits"]:
            raise EnvironmentLack(f"{output} would take {console.size(plan['bytes'])}, which the disk has no room for.")
        return console.done(f"dry run: nothing was written; {output} would take {console.size(plan['bytes'])}")
    progress = console.progress()
    bundle = export.export_onnx(
        parsed,
        output,
        precision,
        opset,
        samples,
        golden=not no_golden,
        overwrite=overwrite,
        progress=progress,
        keep_fp32=keep_fp32,
    )
    if as_json:
        console.print_json(
            {"bundle": str(bundle.root), "bytes": bundle.size, "precision": bundle.manifest["precision"]}
            | {"stages": [vars(stage) for stage in progress.stages], "peak_mib": progress.peak_mib}
        )
    console.done(
        f"done: {output} ({bundle.manifest['precision']}, {console.size(bundle.size)}), "
        f"{sum(stage.seconds for stage in progress.stages):.1f} s, peak {progress.peak_mib:.0f} MiB"
    )
