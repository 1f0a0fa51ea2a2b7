"""The command line: parse, call, render. Models, ONNX and PyTorch are imported by the functions that need them."""

import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .exporter.errors import EnvironmentLack, InputError, ToolError, VerdictError

if TYPE_CHECKING:
    from .exporter.checkpoints.source import Source
    from .exporter.pipeline import Settings

_GENERATION = {"max_new_tokens", "temperature", "top_p", "seed"}
_DRAWING = {"negative_text", "steps", "guidance", "height", "width"}
_RUN_MODES = {
    "text": {"image", "image_2", "choices", "hint", "labels", "output", *_GENERATION, *_DRAWING},
    "data": {"output", "no_resume", "dry_run", "batch", "labels", *_GENERATION, *_DRAWING},
    "component": {"inputs", "save_outputs"},
}


class _NamedPath(click.Path):
    """A path that was given: an empty text, as of a variable that is not set, would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value).strip():
            self.fail("the name is empty; give a path.", param, ctx)
        return super().convert(value, param, ctx)


PATH = _NamedPath(path_type=Path)
PRECISIONS = click.Choice(["fp32", "fp16", "bf16"])
QUANTIZED = click.Choice(["int8", "fp8", "int8-weights", "int4-weights"])
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
_PRECISION = click.option(
    "--precision",
    type=click.Choice([*PRECISIONS.choices, *QUANTIZED.choices]),
    help="Which of the bundle's graphs (default: its own).",
)
_BACKEND = click.option(
    "--backend", type=click.Choice(["onnxruntime", "tensorrt"]), default="onnxruntime", show_default=True
)
_TRUST = click.option("--trust-bundle", is_flag=True, help="Load engines that bring host code of their own.")
_LOWERING = click.option(
    "--lowering", type=click.Choice(["plugin", "native"]), help="Only engines of this lowering (default: the newest)."
)
_FILES = ("base", "vision", "adapter", "checkpoint", "tokenizer", "labels")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="memvp-export")
def cli() -> None:
    """Official MemVP and APT checkpoints to ONNX and TensorRT, with proof that the answers are still PyTorch's.

    Exit codes: 0 done, 1 the verdict is no, 2 wrong use or bad input, 3 this machine lacks something, 4 a bug,
    130 interrupted.
    """


def main() -> None:
    """Entry point: every failure becomes one message and the exit code of its kind."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt)
    # A terminal that is closed; under nohup the signal is ignored, and stays so.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)
    sys.unraisablehook = _keep_interrupt
    try:
        # Not cli.main: it has its own exit codes for an interrupt and a closed pipe.
        with cli.make_context("memvp-export", sys.argv[1:]) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted: nothing was left half-written under the asked name", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except ToolError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of standard output went away, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except MemoryError:
        _fail("this machine has too little memory for that", 3)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror), 3)
        traceback.print_exc()
        _fail(
            f"this is a bug in memvp-export ({type(error).__name__}: {error}). Please report it with the lines above.",
            4,
        )


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _keep_interrupt(ignored: "sys.UnraisableHookArgs") -> None:
    """Python drops an interrupt that arrives while a destructor runs: it is raised again a moment later."""
    if isinstance(ignored.exc_value, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
    else:
        sys.__unraisablehook__(ignored)


def _fail(message: str, code: int) -> None:
    # The terminal may be gone.
    with suppress(OSError):
        click.echo(f"error: {message}", err=True)
    sys.exit(code)


def _done(message: str) -> None:
    """The last line of a command that did what it was asked."""
    click.echo(message, err=True)


def _source_options(command: Any) -> Any:
    for name in reversed(_FILES):
        command = click.option(
            f"--{name}", help=f"files.{name} of model.toml: a path or hf:owner/name@revision[:path]."
        )(command)
    command = click.option("--family", help="family of model.toml, where flags take its place.")(command)
    command = click.option("--task", help="task of model.toml.")(command)
    return click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of model.toml.")(
        command
    )


def _read_source(path: str | None, flags: dict[str, Any]) -> "Source":
    from .exporter.checkpoints.source import read_source, source_from_flags

    files = {name: flags[name] for name in _FILES if flags.get(name)}
    options = dict(_pair("--option", option) for option in flags.get("options") or ())
    if path is not None:
        if files or options or flags.get("family") or flags.get("task"):
            raise InputError("give a model.toml or flags in its place, not both.")
        return read_source(Path(path))
    if not files:
        raise InputError(
            "give a source: a model.toml, the folder that holds it, or --family, --base, --vision, ... instead."
        )
    return source_from_flags(flags["family"], flags["task"], files, options)


def _pair(flag: str, text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"{flag} {text!r} is not {'NAME=LENGTH' if flag == '--shape' else 'KEY=VALUE'}.")
    return key, value


@cli.command()
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
@_source_options
@_AS_JSON
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
    _needs("torch", "onnxscript", "safetensors", extra="export")
    from .exporter import console, export
    from .exporter.bundle import check_place
    from .exporter.plan import plan_export
    from .exporter.tables import print_plan

    parsed = _read_source(source, flags)
    if dry_run:
        check_place(output, overwrite)
        plan = plan_export(parsed, precision, opset, not no_golden, keep_fp32, samples).to_dict(output)
        _print_json(plan) if as_json else print_plan(plan)
        if not plan["fits"]:
            raise EnvironmentLack(f"{output} would take {console.size(plan['bytes'])}, which the disk has no room for.")
        return _done(f"dry run: nothing was written; {output} would take {console.size(plan['bytes'])}")
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
        _print_json(
            {"bundle": str(bundle.root), "bytes": bundle.size, "precision": bundle.manifest["precision"]}
            | {"stages": [vars(stage) for stage in progress.stages], "peak_mib": progress.peak_mib}
        )
    _done(
        f"done: {output} ({bundle.manifest['precision']}, {console.size(bundle.size)}), "
        f"{sum(stage.seconds for stage in progress.stages):.1f} s, peak {progress.peak_mib:.0f} MiB"
    )


@cli.command()
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
@click.option("--samples", type=int, help="How many samples (default 256).")
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
@_AS_JSON
def calibrate(bundle: Path, html: Path | None, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """Find the ranges of activations on real data, and enter quantized graphs into the bundle."""
    if dry_run and html:
        raise InputError("--html does not go with --dry-run: there is no report to write.")
    _needs("onnxruntime", extra="cpu")
    from .calibration.calibrate import calibrate as run_calibration
    from .exporter import console
    from .exporter.bundle import Bundle

    if html:
        from .calibration.page import write_calibration_page
        from .exporter.parity.page import require_packages

        require_packages()
    opened = Bundle.open(bundle)
    if dry_run:
        from .calibration.plan import plan_calibration, print_plan

        plan = plan_calibration(opened, **asked)
        _print_json(plan) if as_json else print_plan(plan)
        layers = range(sum(one["layers"] for one in plan["components"]))
        return _done(f"dry run: nothing was written; {_count(layers, 'layer')} would be quantized")
    found = run_calibration(opened, **asked, progress=console.progress())
    if as_json:
        _print_json(found.to_dict())
    else:
        rows = [(row.component, row.layer, _short(row.alone), row.reason or "quantized") for row in found.layers[:20]]
        console.table("the layers that do most damage alone", ("component", "layer", "relative L2", ""), rows)
    if html:
        write_calibration_page(found, opened, html)
    damage = f", relative L2 {found.damage.relative_l2:.2e} against fp32" if found.damage else ""
    _done(f"done: {_count(range(found.quantized), 'layer')} of {bundle} in {found.mode}{damage}")


def _precision_flags(command: Any) -> Any:
    words = {
        "fp32": "Precision of the engines (default: the bundle's own).",
        "int8": "After `calibrate`, as those below.",
    }
    for name in reversed((*PRECISIONS.choices, *QUANTIZED.choices)):
        command = click.option(f"--{name}", is_flag=True, help=words.get(name))(command)
    return command


@cli.command()
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
@click.option("--max-seq", type=int, help="Most columns, past and new together (default: all the graph takes).")
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
@_AS_JSON
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
    from .exporter import console
    from .exporter.engines import build
    from .exporter.engines.byte_size import parse_size
    from .exporter.engines.render import print_engines, print_plan
    from .exporter.engines.request import Request
    from .exporter.engines.shape_texts import parse_shapes

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
        _print_json(plan) if as_json else print_plan(plan)
        for note in plan["notes"]:
            _note(note)
        return _done(f"dry run: nothing was written; {_count(plan['components'], 'engine')} planned")
    if lower_only:
        recipes = build.lower_engines(bundle, lower_only, request, progress)
        if as_json:
            _print_json({"folder": str(lower_only), "recipes": [recipe.name for recipe in recipes]})
        return _done(
            f"done: {lower_only} builds {_count(recipes, 'engine')}: copy it, run build.sh there, then --adopt it"
        )
    entries = build.adopt_engines(bundle, adopt, progress) if adopt else build.build_engines(bundle, request, progress)
    _print_json(entries) if as_json else print_engines(entries)
    _done(f"done: {_count(entries, 'engine')} in {bundle}, read back: what was asked for is in there")


@cli.command()
@click.argument("bundle", type=PATH)
@_BACKEND
@_PRECISION
@click.option("--data", type=PATH, help="JSONL requests to answer with bundle and reference.")
@click.option("--source", type=PATH, help="model.toml: run the reference anew on the source's tensors.")
@click.option("--html", type=PATH, help="Write a page with tables and plots.")
@click.option("--report", type=PATH, help="Write the JSON report to this file.")
@click.option("--bisect", is_flag=True, help="Name the first module whose results leave the tolerance.")
@_TRUST
@_LOWERING
@click.option("--dry-run", is_flag=True, help="Say what would be compared.")
@_AS_JSON
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
    from .exporter import console
    from .exporter.bundle import Bundle
    from .exporter.parity.bisect import bisect as run_bisect
    from .exporter.parity.bisect import require_plain
    from .exporter.parity.bisect_text import lines
    from .exporter.parity.check import check as run_check
    from .exporter.parity.preview import preview_check
    from .exporter.tables import print_parity
    from .exporter.whole_file import whole_file

    if html:
        from .exporter.parity.page import require_packages, write_check_page

        require_packages()
    _check_engine_options(trust_bundle, lowering, backend)
    if bisect:
        require_plain(precision)
    opened = Bundle.open(bundle)
    parsed = _read_source(str(source), {}) if source else None
    if dry_run:
        plan = preview_check(opened, precision, data, parsed, backend, trust_bundle, lowering)
        _print_json(plan) if as_json else click.echo("\n".join(plan["compared"]))
        return _done(f"dry run: nothing was compared; {len(plan['compared'])} comparisons are planned")
    progress = console.progress()
    found = run_check(opened, backend, precision, data, parsed, progress, trust_bundle, lowering)
    located = run_bisect(opened, precision, parsed, progress, backend=backend) if bisect else None
    whole = found.to_dict() | ({"bisect": located.to_dict()} if located else {})
    if as_json:
        _print_json(whole)
    else:
        print_parity(found)
    if located and not as_json:
        click.echo("\n".join(lines(located)))
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    for failure in found.failures:
        click.echo(f"failed: {failure}", err=True)
    # After what was found is on the screen: a file that cannot be written must not lose it.
    if html:
        write_check_page(found, opened, html)
    if report:
        with whole_file(report) as file:
            file.write(json.dumps(whole, indent=1).encode())
    _done(found.verdict)
    if not found.passed:
        sys.exit(1)


@cli.command()
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
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the most probable token.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw among tokens that hold this share.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--negative-text", help="For models that make images: what an image should not be of.")
@click.option("--steps", type=int, help="For models that make images: steps of the scheduler (default 50).")
@click.option("--guidance", type=float, help="For models that make images: how far the text leads (default 7.5).")
@click.option("--height", type=int, help="Of an image that is made, in pixels (default: the bundle's).")
@click.option("--width", type=int, help="Of an image that is made, in pixels (default: the bundle's).")
@click.option("--batch", type=int, help="Requests at a time.")
@_BACKEND
@_TRUST
@_LOWERING
@_PRECISION
@click.option("--dry-run", is_flag=True, help="With --data: read the requests and say how many there are.")
@_AS_JSON
@click.pass_context
def run(context: click.Context, bundle: Path, **flags: Any) -> None:
    """Answer a question, a file of questions, make an image of a text, or run raw tensors through one component."""
    # A picture alone is compared with labels.
    modes = [mode for mode in _RUN_MODES if flags[mode] is not None] or ["text"] * (flags["image"] is not None)
    if len(modes) != 1:
        raise InputError("give one of --text, --data and --component.")
    takes = {*_RUN_MODES[modes[0]], *modes, "backend", "precision", "trust_bundle", "lowering", "as_json"}
    given = [name for name in flags if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    for name in given:
        if name not in takes:
            raise InputError(f"--{name.replace('_', '-')} does not go with --{modes[0]}.")
        if flags["choices"] and name in _GENERATION:
            raise InputError(f"--{name.replace('_', '-')} does not go with --choices: one token is scored.")
    _check_engine_options(flags["trust_bundle"], flags["lowering"], flags["backend"])
    if modes[0] != "component" and _makes_images(bundle, modes[0], given):
        return _run_images(bundle, flags)
    {"text": _run_text, "data": _run_data, "component": _run_component}[modes[0]](bundle, flags)


def _check_engine_options(trust_bundle: bool, lowering: str | None, *backends: str) -> None:
    if "tensorrt" in backends:
        return
    if trust_bundle:
        raise InputError("--trust-bundle goes with --backend tensorrt: nothing else in a bundle is code.")
    if lowering:
        raise InputError("--lowering goes with --backend tensorrt: the other backends run the bundle's graphs.")


def _note(words: str) -> None:
    click.echo(f"note: {words}", err=True)


def _settings(bundle: Any, flags: dict[str, Any]) -> "Settings":
    from .exporter.pipeline import Settings

    longest = flags["max_new_tokens"]
    if longest is None:
        longest = (bundle.manifest["generation"] or {"max_new_tokens": 1})["max_new_tokens"]
    return Settings(longest, flags["temperature"], flags["top_p"], flags["seed"], flags["batch"])


def _labels(flags: dict[str, Any]) -> list[str] | None:
    from .exporter.labels import read_label_set

    return read_label_set(flags["labels"]) if flags["labels"] else None


def _makes_images(path: Path, mode: str, given: list[str]) -> bool:
    """Whether the bundle makes images. InputError for flags of the other kind of bundles."""
    from .exporter.bundle import Bundle
    from .exporter.pipelines import makes_images

    makes = makes_images(Bundle.open(path).manifest)
    takes = {mode, "output", "batch", "seed", "dry_run", "backend", "precision", "trust_bundle", "lowering", "as_json"}
    for name in given:
        if makes and name not in takes | _DRAWING:
            raise InputError(f"--{name.replace('_', '-')} does not go with a bundle that makes images.")
        if not makes and (name in _DRAWING or (mode, name) == ("text", "output")):
            raise InputError(f"--{name.replace('_', '-')} does not go with --{mode}, but where a bundle makes images.")
    return makes


def _run_images(path: Path, flags: dict[str, Any]) -> None:
    from .exporter.make_images import image_requests, make_image, make_images
    from .exporter.text_to_image import ImageSettings

    asked = {"steps": flags["steps"], "guidance": flags["guidance"], "negative_text": flags["negative_text"]}
    asked |= {"seed": flags["seed"], "height": flags["height"], "width": flags["width"]}
    settings = ImageSettings(**{name: value for name, value in asked.items() if value is not None})
    output = flags["output"]
    backend = (flags["backend"], flags["precision"], flags["trust_bundle"], flags["lowering"], _note)
    if flags["dry_run"]:
        count = len(image_requests(flags["data"]))
        if flags["as_json"]:
            _print_json({"requests": count})
        return _done(f"dry run: {flags['data']} holds {count} requests; no image was made")
    if output is None:
        raise InputError("this bundle makes images: give -o, a PNG file, or with --data a folder.")
    if flags["text"] is not None:
        made = make_image(path, flags["text"], output, settings, *backend)
        if made["truncated"]:
            click.echo("warning: the prompt was too long and lost its end", err=True)
        if flags["as_json"]:
            _print_json(made)
        words = f"{made['width']} x {made['height']} pixels, {made['steps']} steps, seed {made['seed']}"
        return _done(f"done: {output}, {words}")

    def told(facts: Any) -> None:
        for one in facts:
            if one["truncated"]:
                click.echo(f"warning: the prompt of {one['id']!r} was too long and lost its end", err=True)

    count = make_images(path, flags["data"], output, settings, flags["batch"], *backend, told)
    if flags["as_json"]:
        _print_json({"output": str(output), "made": count})
    _done(f"done: {count} images in {output}")


def _run_text(path: Path, flags: dict[str, Any]) -> None:
    from .exporter.bundle import Bundle
    from .exporter.pipelines import takes_labels
    from .exporter.run import run as answer_one

    bundle = Bundle.open(path)
    settings = _settings(bundle, flags)
    if flags["hint"] and not flags["choices"]:
        raise InputError("--hint goes with --choices.")
    if flags["text"] is None and not takes_labels(bundle.manifest):
        raise InputError(f"give --text: {path} is of {bundle.manifest['family']}, which answers a text about an image.")
    asked = (flags["text"] or "", flags["image"], flags["choices"], flags["hint"] or "")
    backend = (flags["backend"], flags["precision"], flags["trust_bundle"])
    others: tuple[Any, ...] = (flags["image_2"], flags["lowering"], _note, _labels(flags))
    answer = answer_one(bundle, *asked, settings, *backend, *others)
    if answer.truncated:
        click.echo("warning: the prompt was too long and lost its end", err=True)
    if flags["as_json"]:
        _print_json(answer.to_dict())
    elif answer.choice is not None and answer.choice >= 0:
        click.echo(f"{answer.text}  ({flags['choices'][answer.choice]})")
    else:
        click.echo(answer.text)
        for label, share in answer.top:
            click.echo(f"  {share:7.2%}  {label}")
    if answer.choice == -1:
        click.echo("note: the answer names none of the choices", err=True)


def _run_data(path: Path, flags: dict[str, Any]) -> None:
    from .exporter.bundle import Bundle
    from .exporter.data import read_answers
    from .exporter.datasets import open_dataset
    from .exporter.judging import correct
    from .exporter.pipelines import ranks
    from .exporter.ranking import rankings
    from .exporter.run import run_file

    bundle = Bundle.open(path)
    if flags["dry_run"]:
        count = sum(1 for _ in open_dataset(flags["data"]).requests())
        if flags["as_json"]:
            _print_json({"requests": count})
        return _done(f"dry run: {flags['data']} holds {count} requests; nothing was answered")
    if flags["output"] is None:
        raise InputError("--data needs -o: the file the answers go to.")

    def answered(requests: Any, answers: Any) -> None:
        for answer in answers:
            if answer.truncated:
                click.echo(f"warning: the prompt of {answer.id!r} was too long and lost its end", err=True)

    settings = _settings(bundle, flags)
    count = run_file(
        bundle,
        flags["data"],
        flags["output"],
        settings,
        not flags["no_resume"],
        flags["backend"],
        flags["precision"],
        answered,
        flags["trust_bundle"],
        flags["lowering"],
        _note,
        _labels(flags),
    )
    # Of the whole file, where an earlier run answered a part of it.
    dataset, answers = open_dataset(flags["data"]), {answer.id: answer for answer in read_answers(flags["output"])}
    verdicts = [correct(request, answers[request.id]) for request in dataset.requests()]
    judged = [verdict for verdict in verdicts if verdict is not None]
    right = sum(judged)
    scores = dataset.score(answers) if dataset.score else {}
    ranked = rankings(dataset.requests(), answers) if ranks(bundle.manifest) else []
    if not flags["as_json"]:
        from .exporter.tables import print_rankings, print_subsets

        if scores:
            print_subsets(scores)
        if ranked:
            print_rankings(ranked)
    else:
        _print_json(
            {"output": str(flags["output"]), "answered": count, "judged": len(judged), "right": right}
            | ({"scores": {name: vars(row) for name, row in scores.items()}} if scores else {})
            | ({"rankings": [asdict(one) for one in ranked]} if ranked else {})
        )
    accuracy = f"; {right} of {len(judged)} are right ({right / len(judged):.1%})" if judged else ""
    _done(f"done: {count} requests answered into {flags['output']}{accuracy}")


def _run_component(path: Path, flags: dict[str, Any]) -> None:
    from .exporter.run import run_component

    if flags["inputs"] is None or flags["save_outputs"] is None:
        raise InputError("--component needs --inputs and --save-outputs.")
    asked = (flags["component"], flags["inputs"], flags["save_outputs"])
    backend = (flags["backend"], flags["precision"], flags["trust_bundle"], flags["lowering"])
    outputs = run_component(path, *asked, *backend, _note)
    shapes = {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in outputs.items()}
    if flags["as_json"]:
        _print_json(shapes)
    _done(f"done: {len(outputs)} outputs of {flags['component']} in {flags['save_outputs']}")


@cli.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(["torch", "onnxruntime", "tensorrt"]),
    help="What to measure; repeat for several (default: all that run here). The first is compared with.",
)
@_PRECISION
@click.option("--compare", type=PATH, help="Another bundle, or the JSON of an earlier bench.")
@click.option("--stage", "stages", multiple=True, help="Only this stage; repeat for several.")
@click.option("--batch", type=int, help="Rows at once for throughput (default 8, or what the graphs take).")
@click.option("--prompt-tokens", type=int, help="Columns of a prefill (default 64).")
@click.option("--past", type=int, help="Columns in the cache of a decode step (default: the prompt's).")
@click.option("--new-tokens", type=int, help="Measure whole answers of so many tokens too.")
@click.option("--warmup", type=int, default=3, show_default=True, help="Calls before the measured ones.")
@click.option("--iterations", type=int, default=20, show_default=True, help="Calls to measure at least.")
@click.option("--duration", type=float, default=1.0, show_default=True, help="Seconds to measure each load at least.")
@click.option("--percentile", "percentiles", type=float, multiple=True, default=(50, 90, 95, 99), show_default=True)
@click.option("--html", type=PATH, help="Write a page with tables.")
@click.option("--report", type=PATH, help="Write the JSON report to this file.")
@_TRUST
@_LOWERING
@click.option("--dry-run", is_flag=True, help="Say what would be measured.")
@_AS_JSON
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
    from .exporter import console
    from .exporter.bench.measure import bench as run_bench
    from .exporter.bench.measure import preview_bench
    from .exporter.bench.options import Options
    from .exporter.bench.render import print_bench, print_plan
    from .exporter.whole_file import whole_file

    if html:
        from .exporter.bench.page import require_packages, write_bench_page

        require_packages()
    # Without any, all that are here are measured.
    _check_engine_options(trust_bundle, lowering, *(backends or ("tensorrt",)))
    options = Options(**{**sizes, "stages": sizes["stages"] or None})
    asked = (bundle, backends or None, precision, options, compare)
    if dry_run:
        plan = preview_bench(*asked, trust_bundle=trust_bundle, lowering=lowering)
        _print_json(plan) if as_json else print_plan(plan)
        for note in plan["notes"]:
            click.echo(f"note: {note}", err=True)
        return _done(f"dry run: nothing was measured; {len(plan['loads'])} loads are planned")
    found = run_bench(*asked, progress=console.progress(), trust_bundle=trust_bundle, lowering=lowering)
    _print_json(found.to_dict()) if as_json else print_bench(found)
    for warning in found.warnings:
        click.echo(f"not stable: {warning}", err=True)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if html:
        write_bench_page(found, html)
    if report:
        with whole_file(report) as file:
            file.write(json.dumps(found.to_dict(), indent=1).encode())
    _done(found.verdict)


@cli.command()
@click.argument("path", type=PATH)
@click.option("--shape", "shapes", multiple=True, metavar="NAME=LENGTH", help="A dynamic dimension for the FLOP count.")
@click.option("--flops", is_flag=True, help="Only the multiply-accumulates of every graph.")
@click.option("--compare", type=click.Choice(["deep-prompt"]), help="The same beside deep prompts in APT's place.")
@click.option("--verify", is_flag=True, help="Compare the digests of all files too.")
@_AS_JSON
def inspect(path: Path, shapes: tuple[str, ...], flops: bool, compare: str | None, verify: bool, as_json: bool) -> None:
    """Say what is in a bundle, graph or engine: components, types, layers, memory sites, sizes, FLOPs."""
    from .exporter.inspection import inspect_path
    from .exporter.inspection.flops import costs_of, print_flops
    from .exporter.inspection.render import print_report

    lengths = [_length(shape) for shape in shapes]
    if twice := sorted({name for name, _ in lengths if [other for other, _ in lengths].count(name) > 1}):
        raise InputError(f"--shape {twice[0]} is there twice.")
    report = inspect_path(path, shapes=dict(lengths), verify=verify)
    if flops or compare:
        costs = costs_of(report, bool(compare))
        _print_json(costs) if as_json else print_flops(str(path), costs, bool(compare))
    else:
        _print_json(report) if as_json else print_report(report)
    if report.get("faults"):
        raise VerdictError(f"{path} is no whole graph: {'; '.join(report['faults'])}. Copy them together.")
    whole = f"is a whole {report['kind']}"
    if report.get("missing"):
        whole = f"lacks {_count(report['missing'], 'file')} that can be made again"
    _done(f"done: {path} {whole}" + (", all digests match" if verify else ""))


def _length(shape: str) -> tuple[str, int]:
    name, value = _pair("--shape", shape)
    if not value.isdecimal():
        raise InputError(f"--shape {shape!r} is not NAME=LENGTH.")
    return name, int(value)


@cli.group()
def plugin() -> None:
    """The CUDA library with VisualMemoryFFN for TensorRT: compile it, or say what one is."""


@plugin.command("build")
@click.option("-o", "--output", type=PATH, help="The library (default: where `trt` finds it).")
@click.option("--headers", "--tensorrt-root", "headers", type=PATH, help="TensorRT, or its headers' folder.")
@click.option("--arch", "archs", multiple=True, help="Compute capabilities, such as 80,90 (default: all of nvcc's).")
@click.option("--nvcc", help="CUDA's compiler (default: the first found).")
@click.option("--dry-run", is_flag=True, help="Say what would be taken and made.")
@_AS_JSON
def plugin_build(
    output: Path | None, headers: Path | None, archs: tuple[str, ...], nvcc: str | None, dry_run: bool, as_json: bool
) -> None:
    """Compile the plugin library. Needs nvcc, g++ and TensorRT's headers; no GPU and no TensorRT."""
    from .exporter import console
    from .plugins.build import build_plugin, plan_build

    asked = [arch for word in archs for arch in word.replace(",", " ").split()]
    if archs and not asked:
        raise InputError("--arch is empty: give compute capabilities, such as 80,90, or leave it out.")
    if dry_run:
        plan = plan_build(output, headers, asked, nvcc)
        if as_json:
            _print_json(
                vars(plan) | {"nvcc": vars(plan.nvcc), "headers": vars(plan.headers), "build_id": plan.build_id}
            )
        return _done(
            f"dry run: nothing was compiled; {plan.output} would be build {plan.build_id} for {' '.join(plan.archs)}, "
            f"with nvcc {plan.nvcc.version} and headers of TensorRT {plan.headers.version}"
        )
    progress = console.progress()
    info = build_plugin(output, headers=headers, archs=asked, nvcc=nvcc, progress=progress)
    if as_json:
        _print_json(info.to_dict())
    _done(f"done: {info.path} (build {info.build_id}), {sum(stage.seconds for stage in progress.stages):.1f} s")


@plugin.command("info")
@click.argument("library", type=PATH, required=False)
@_AS_JSON
def plugin_info(library: Path | None, as_json: bool) -> None:
    """Say what a plugin library is (default: the one that `trt` would take)."""
    from .exporter.console import table
    from .plugins.loader import find_library, library_info

    found = find_library(library)
    if found is None:
        raise EnvironmentLack("there is no plugin library. Build it with:  memvp-export plugin build")
    info = library_info(found)
    rows = [(name, " ".join(value) if isinstance(value, tuple) else value) for name, value in info.to_dict().items()]
    _print_json(info.to_dict()) if as_json else table(str(info.path), ("", ""), rows)
    _done(f"done: {info.path} is build {info.build_id} for TensorRT {info.headers_version}")


@cli.command()
@_AS_JSON
def doctor(as_json: bool) -> None:
    """Say what this machine can do, by trying it."""
    from .exporter import doctor as tests
    from .exporter.tables import print_checks

    checks = tests.doctor()
    code = tests.exit_code(checks)
    if as_json:
        _print_json({"checks": [vars(one) for one in checks], "exit_code": code})
    else:
        print_checks(checks)
    _done(
        "done: export and ONNX Runtime work here"
        if code == 0
        else "the basic way does not work here: see the fixes above"
    )
    sys.exit(code)


@cli.command()
@click.argument("folder", type=PATH, default=Path("memvp-demo"))
@click.option("--overwrite", is_flag=True, help="Replace the bundle of an earlier demo.")
@_AS_JSON
def demo(folder: Path, overwrite: bool, as_json: bool) -> None:
    """The whole way on a small trained model: export, check, answers to held-out questions, one page in FOLDER."""
    _needs("torch", "onnxscript", "safetensors", extra="export")
    _needs("onnxruntime", extra="cpu")
    _needs("jinja2", "matplotlib", extra="report")
    from .exporter import console
    from .exporter.demo import run_demo
    from .exporter.tables import print_demo

    result = run_demo(folder, overwrite, console.progress())
    blind = result.without_images
    if as_json:
        _print_json(
            {"bundle": str(result.bundle.root), "page": str(result.page), "parity": result.report.to_dict()}
            | {"accuracy": [vars(row) for row in result.accuracy], "without_images": vars(blind)}
        )
    else:
        print_demo(result.accuracy, blind)
    _done(result.report.verdict)
    if not result.report.passed:
        sys.exit(1)


def _needs(*packages: str, extra: str) -> None:
    from importlib.util import find_spec

    from .exporter.errors import MissingPackage

    for package in packages:
        if find_spec(package) is None:
            raise MissingPackage(package, extra)


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=1, default=str))


def _count(things: Any, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _short(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"
