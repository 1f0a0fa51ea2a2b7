"""`memvp-export plugin`: the library of operators for TensorRT."""

from pathlib import Path

import click

from .. import console
from ..errors import EnvironmentLack, InputError
from .options import AS_JSON, PATH


@click.group()
def plugin() -> None:
    """The CUDA library with VisualMemoryFFN for TensorRT: compile it, or say what one is."""


@plugin.command("build")
@click.option("-o", "--output", type=PATH, help="The library (default: where `trt` finds it).")
@click.option("--headers", "--tensorrt-root", "headers", type=PATH, help="TensorRT, or its headers' folder.")
@click.option("--arch", "archs", multiple=True, help="Compute capabilities, such as 80,90 (default: all of nvcc's).")
@click.option("--nvcc", help="CUDA's compiler (default: the first found).")
@click.option("--dry-run", is_flag=True, help="Say what would be taken and made.")
@AS_JSON
def plugin_build(
    output: Path | None, headers: Path | None, archs: tuple[str, ...], nvcc: str | None, dry_run: bool, as_json: bool
) -> None:
    """Compile the plugin library. Needs nvcc, g++ and TensorRT's headers; no GPU and no TensorRT."""
    from ...plugins.build import build_plugin, plan_build

    asked = [arch for word in archs for arch in word.replace(",", " ").split()]
    if archs and not asked:
        raise InputError("--arch is empty: give compute capabilities, such as 80,90, or leave it out.")
    if dry_run:
        plan = plan_build(output, headers, asked, nvcc)
        if as_json:
            console.print_json(
                vars(plan) | {"nvcc": vars(plan.nvcc), "headers": vars(plan.headers), "build_id": plan.build_id}
            )
        return console.done(
            f"dry run: nothing was compiled; {plan.output} would be build {plan.build_id} for {' '.join(plan.archs)}, "
            f"with nvcc {plan.nvcc.version} and headers of TensorRT {plan.headers.version}"
        )
    progress = console.progress()
    info = build_plugin(output, headers=headers, archs=asked, nvcc=nvcc, progress=progress)
    if as_json:
        console.print_json(info.to_dict())
    console.done(f"done: {info.path} (build {info.build_id}), {sum(stage.seconds for stage in progress.stages):.1f} s")


@plugin.command("info")
@click.argument("library", type=PATH, required=False)
@AS_JSON
def plugin_info(library: Path | None, as_json: bool) -> None:
    """Say what a plugin library is (default: the one that `trt` would take)."""
    from ...plugins.loader import find_library, library_info

    found = find_library(library)
    if found is None:
        raise EnvironmentLack("there is no plugin library. Build it with:  memvp-export plugin build")
    info = library_info(found)
    rows = [(name, " ".join(value) if isinstance(value, tuple) else value) for name, value in info.to_dict().items()]
    console.print_json(info.to_dict()) if as_json else console.table(str(info.path), ("", ""), rows)
    console.done(f"done: {info.path} is build {info.build_id} for TensorRT {info.headers_version}")
