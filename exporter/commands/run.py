"""`memvp-export run`: answers, images, or raw tensors through one component."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..console import note
from .options import AS_JSON, BACKEND, LOWERING, PATH, PRECISION, TRUST, refuse_engine_options
from .run_answers import run_data, run_text
from .run_component import run_component
from .run_images import run_images
from .run_modes import makes_images, mode_of


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--text", help="The prompt.")
@click.option("--image", type=PATH, help="A picture; without one the model is told so.")
@click.option("--image-2", type=PATH, help="The second picture, of models that compare two.")
@click.option("--choices", multiple=True, help="Ask with the ScienceQA prompt, in one pass; repeat for each choice.")
@click.option("--hint", help="The context of the ScienceQA prompt, with --choices.")
@click.option("--labels", type=PATH, help="What APT on CLIP compares the picture with: one label a line, or JSON.")
@click.option("--data", type=PATH, help="JSONL requests to answer, batched and resumable.")
@click.option("-o", "--output", type=PATH, help="Where the answers to --data go, or an image (with --data, a folder).")
@click.option("--no-resume", is_flag=True, help="Answer all of --data again.")
@click.option("--component", help="Run raw tensors through one component.")
@click.option("--inputs", type=PATH, help="npz file with the component's inputs.")
@click.option("--save-outputs", type=PATH, help="npz file for the component's outputs.")
@click.option("--max-new-tokens", type=int, help="Longest answer in tokens (default: the bundle's).")
@click.option("--beams", type=int, help="Search the answer with so many beams (default: the bundle's).")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the most probable token.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw among tokens that hold this share.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--negative-text", help="For models that make images: what an image should not be of.")
@click.option("--steps", type=int, help="For models that make images: steps of the scheduler (default 50).")
@click.option("--guidance", type=float, help="For models that make images: how far the text leads (default 7.5).")
@click.option("--height", type=int, help="Of an image that is made, in pixels (default: the bundle's).")
@click.option("--width", type=int, help="Of an image that is made, in pixels (default: the bundle's).")
@click.option("--batch", type=int, help="Requests at a time.")
@BACKEND
@TRUST
@LOWERING
@PRECISION
@click.option("--dry-run", is_flag=True, help="With --data: read the requests and say how many there are.")
@AS_JSON
@click.pass_context
def run(context: click.Context, bundle: Path, **flags: Any) -> None:
    """Answer a question, a file of questions, make an image of a text, or run raw tensors through one component."""
    given = [name for name in flags if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    mode = mode_of(flags, given)
    refuse_engine_options(flags["trust_bundle"], flags["lowering"], flags["backend"])
    engine = {name: flags[name] for name in ("backend", "precision", "trust_bundle", "lowering")} | {"note": note}
    if mode == "component":
        run_component(bundle, flags, engine)
    elif makes_images(bundle, mode, flags, given):
        run_images(bundle, flags, engine)
    else:
        {"text": run_text, "data": run_data}[mode](bundle, flags, engine)
