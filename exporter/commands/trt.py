"""`memvp-export trt`."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .. import console
from ..errors import InputError
from .options import AS_JSON, PATH, PRECISIONS, QUANTIZED


def _precision_flags(command: Any) -> Any:
    words = {
        "fp32": "Precision of the engines (default: the bundle's own).",
        "int8": "After `calibrate`, as those below.",
    }
    for name in reversed((*PRECISIONS.choices, *QUANTIZED.choices)):
        command = click.option(f"--{name}", is_flag=True, help=words.get(name))(command)
    return command


@click.command()
@click.argument("bundle", type=PATH)
@_precision_flags
@click.option(
    "--target",
    type=click.Choice(["tensorrt", "tensorrt-rtx", "tensorrt-8"]),
    help="Default: the one that is installed; tensorrt-8 is 8.5 and 8.6.",
)
@click.option("--component", "components", multiple=True, help="Only this component; repeat for several.")
@click.option("--plugin", type=click.Choice(["auto", "on", "off"]), default="auto", show_default=True)
@click.option("--embed-plugin", is_flag=True, help="Put the plugin library into the engine.")
@click.option("--cache", type=click.Choice(["delta", "concat", "in_place"]), default="delta", show_default=True)
@click.option("--single-pass", is_flag=True, help="Leave the cache out: for scoring and one-token answers.")
@click.option("--max-batch", type=int, help="Largest batch (default 8).")
@click.option(
    "--max-seq", type=int, help="Most columns, past and new together, and of a text that is read (default: all)."
)
@click.option("--min-shapes", multiple=True, metavar="NAME:1x3x224x224", help="Smallest shapes of inputs.")
@click.option("--opt-shapes", multiple=True, metavar="NAME:...", help="Shapes to tune for.")
@click.option("--max-shapes", multiple=True, metavar="NAME:...", help="Largest shapes.")
@click.option("--workspace", metavar="SIZE", help="Memory for the builder's kernels, such as 4G.")
@click.option("--timing-cache", type=PATH, help="A file of measured kernels to read and update.")
@click.option("--builder-effort", type=int, help="0 to 5.")
@click.option(
    "--keep-fp32", multiple=True, metavar="PATTERN", help="Modules of half engines to keep in float32; repeatable."
)
@click.option("--lower-only", type=PATH, help="Write all that another machine needs to build.")
@click.option("--adopt", type=PATH, help="Enter the engines built in such a folder.")
@click.option("--dry-run", is_flag=True, help="Say what would be built.")
@AS_JSON
@click.pass_context
def trt(
    context: click.Context,
    bundle: Path,
    lower_only: Path | None,
    adopt: Path | None,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Build TensorRT engines of a bundle and refuse those that are not what was asked for."""
    from ..engines import build
    from ..engines.byte_size import parse_size
    from ..engines.render import print_engines, print_plan
    from ..engines.request import Request
    from ..engines.shape_texts import parse_shapes

    if lower_only and adopt:
        raise InputError("give one of --lower-only and --adopt.")
    if adopt and any(context.get_parameter_source(name) is not ParameterSource.DEFAULT for name in (*asked, "dry_run")):
        raise InputError("--adopt takes what the folder's recipes say: give no other options with it.")
    precisions = [name for name in (*PRECISIONS.choices, *QUANTIZED.choices) if asked.pop(name.replace("-", "_"))]
    if len(precisions) > 1:
        raise InputError(f"an engine is of one precision: give one of {', '.join(f'--{name}' for name in precisions)}.")
    asked["precision"] = precisions[0] if precisions else None
    for name in ("min_shapes", "opt_shapes", "max_shapes"):
        asked[name] = parse_shapes(asked[name])
    asked["workspace"] = parse_size(asked["workspace"]) if asked["workspace"] is not None else None
    request, progress = Request(**asked), console.progress()
    if dry_run:
        plan = build.plan_engines(bundle, request, lower_only)
        console.print_json(plan) if as_json else print_plan(plan)
        for note in plan["notes"]:
            console.note(note)
        return console.done(f"dry run: nothing was written; {console.counted(plan['components'], 'engine')} planned")
    if lower_only:
        recipes = build.lower_engines(bundle, lower_only, request, progress)
        if as_json:
            console.print_json({"folder": str(lower_only), "recipes": [recipe.name for recipe in recipes]})
        engines = console.counted(recipes, "engine")
        return console.done(f"done: {lower_only} builds {engines}: copy it, run build.sh there, then --adopt it")
    entries = build.adopt_engines(bundle, adopt, progress) if adopt else build.build_engines(bundle, request, progress)
    console.print_json(entries) if as_json else print_engines(entries)
    console.done(f"done: {console.counted(entries, 'engine')} in {bundle}, read back: what was asked for is in there")
