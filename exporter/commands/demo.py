"""`memvp-export demo`."""

import sys
from pathlib import Path

import click

from .. import console
from ..packages import require_installed
from .options import AS_JSON, PATH


@click.command()
@click.argument("folder", type=PATH, default=Path("memvp-demo"))
@click.option("--overwrite", is_flag=True, help="Replace the bundle of an earlier demo.")
@AS_JSON
def demo(folder: Path, overwrite: bool, as_json: bool) -> None:
    """The whole way on a small trained model: export, check, answers to held-out questions, one page in FOLDER."""
    require_installed("torch", "onnxscript", "safetensors", extra="export")
    require_installed("onnxruntime", extra="cpu")
    require_installed("jinja2", "matplotlib", extra="report")
    from ..demo import run_demo
    from ..tables import print_demo

    result = run_demo(folder, overwrite, console.progress())
    blind = result.without_images
    if as_json:
        console.print_json(
            {"bundle": str(result.bundle.root), "page": str(result.page), "parity": result.report.to_dict()}
            | {"accuracy": [vars(row) for row in result.accuracy], "without_images": vars(blind)}
        )
    else:
        print_demo(result.accuracy, blind)
    console.done(result.report.verdict)
    if not result.report.passed:
        sys.exit(1)
