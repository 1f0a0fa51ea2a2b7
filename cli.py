"""The command line: parse, call, render. Models, ONNX and PyTorch are imported by the functions that need them."""

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .exporter.errors import EnvironmentLack, InputError, ToolError

if TYPE_CHECKING:
    from .exporter.checkpoints.source import Source
    from .exporter.pipeline import Settings

_GENERATION = {"max_new_tokens", "temperature", "top_p", "seed"}
_RUN_MODES = {
    "text": {"image", "choices", "hint", *_GENERATION},
    "data": {"output", "no_resume", "dry_run", "batch", *_GENERATION},
    "component": {"inputs", "save_outputs"},
}
PRECISIONS = click.Choice(["fp32", "fp16", "bf16"])
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
_PRECISION = click.option("--precision", type=PRECISIONS, help="Which of the bundle's graphs (default: its own).")
_FILES = ("base", "vision", "adapter", "tokenizer")


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
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The bundle to make.")
@click.option("--precision", type=PRECISIONS, help="Precision of the graphs (default: the checkpoint's own).")
@click.option("--opset", type=int, help="ONNX opset (default 20; 22 for bf16, whose convolutions need it).")
@click.option("--samples", type=click.Path(path_type=Path), help="JSONL requests to make the golden samples of.")
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
    from .exporter.bundle import check_free
    from .exporter.plan import plan_export
    from .exporter.tables import print_plan

    parsed = _read_source(source, flags)
    if dry_run:
        check_free(output, overwrite)
        plan = plan_export(parsed, precision, opset, golden=not no_golden).to_dict(output)
        _print_json(plan) if as_json else print_plan(plan)
        if not plan["fits"]:
            raise EnvironmentLack(f"{output} would take {console.size(plan['bytes'])}, which the disk has no room for.")
        return _done(f"dry run: nothing was written; {output} would take {console.size(plan['bytes'])}")
    progress = console.progress()
    bundle = export.export_onnx(
        parsed, output, precision, opset, samples, golden=not no_golden, overwrite=overwrite, progress=progress
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
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", type=click.Choice(["onnxruntime"]), default="onnxruntime", show_default=True)
@_PRECISION
@click.option("--data", type=click.Path(path_type=Path), help="JSONL requests to answer with bundle and reference.")
@click.option("--source", help="model.toml: run the reference anew on the source's tensors.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with tables and plots.")
@click.option("--report", type=click.Path(path_type=Path), help="Write the JSON report to this file.")
@click.option("--bisect", is_flag=True, help="Name the first module whose results leave the tolerance.")
@click.option("--dry-run", is_flag=True, help="Say what would be compared.")
@_AS_JSON
def check(
    bundle: Path,
    backend: str,
    precision: str | None,
    data: Path | None,
    source: str | None,
    html: Path | None,
    report: Path | None,
    bisect: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Prove that a bundle still gives PyTorch's answers; exit code 1 where that was not shown."""
    from .exporter import console
    from .exporter.bundle import Bundle
    from .exporter.parity.bisect import bisect as run_bisect
    from .exporter.parity.bisect import lines
    from .exporter.parity.check import check as run_check
    from .exporter.parity.preview import preview_check
    from .exporter.tables import print_parity
    from .exporter.whole_file import whole_file

    if html:
        from .exporter.parity.page import require_packages, write_check_page

        require_packages()
    opened = Bundle.open(bundle)
    parsed = _read_source(source, {}) if source else None
    if dry_run:
        plan = preview_check(opened, precision, data, parsed)
        _print_json(plan) if as_json else click.echo("\n".join(plan["compared"]))
        return _done(f"dry run: nothing was compared; {len(plan['compared'])} comparisons are planned")
    progress = console.progress()
    found = run_check(opened, backend, precision, data, parsed, progress)
    located = run_bisect(opened, precision, parsed, progress) if bisect else None
    if as_json:
        _print_json(found.to_dict() | ({"bisect": located.to_dict()} if located else {}))
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
            file.write(json.dumps(found.to_dict(), indent=1).encode())
    _done(found.verdict)
    if not found.passed:
        sys.exit(1)


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--text", help="The prompt.")
@click.option("--image", type=click.Path(path_type=Path), help="A picture; without one the model is told so.")
@click.option("--choices", multiple=True, help="Ask with the ScienceQA prompt, in one pass; repeat for each choice.")
@click.option("--hint", help="The context of the ScienceQA prompt, with --choices.")
@click.option("--data", type=click.Path(path_type=Path), help="JSONL requests to answer, batched and resumable.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where the answers to --data go.")
@click.option("--no-resume", is_flag=True, help="Answer all of --data again.")
@click.option("--component", help="Run raw tensors through one component.")
@click.option("--inputs", type=click.Path(path_type=Path), help="npz file with the component's inputs.")
@click.option("--save-outputs", type=click.Path(path_type=Path), help="npz file for the component's outputs.")
@click.option("--max-new-tokens", type=int, help="Longest answer in tokens (default: the bundle's).")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the most probable token.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw among tokens that hold this share.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--batch", type=int, help="Requests at a time.")
@click.option("--backend", type=click.Choice(["onnxruntime"]), default="onnxruntime", show_default=True)
@_PRECISION
@click.option("--dry-run", is_flag=True, help="With --data: read the requests and say how many there are.")
@_AS_JSON
@click.pass_context
def run(context: click.Context, bundle: Path, **flags: Any) -> None:
    """Answer a question, a file of questions, or run raw tensors through one component."""
    modes = [mode for mode in _RUN_MODES if flags[mode] is not None]
    if len(modes) != 1:
        raise InputError("give one of --text, --data and --component.")
    takes = {*_RUN_MODES[modes[0]], *modes, "backend", "precision", "as_json"}
    for name in flags:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            if name not in takes:
                raise InputError(f"--{name.replace('_', '-')} does not go with --{modes[0]}.")
            if flags["choices"] and name in _GENERATION:
                raise InputError(f"--{name.replace('_', '-')} does not go with --choices: one token is scored.")
    {"text": _run_text, "data": _run_data, "component": _run_component}[modes[0]](bundle, flags)


def _settings(bundle: Any, flags: dict[str, Any]) -> "Settings":
    from .exporter.pipeline import Settings

    longest = flags["max_new_tokens"]
    if longest is None:
        longest = bundle.manifest["generation"]["max_new_tokens"]
    return Settings(longest, flags["temperature"], flags["top_p"], flags["seed"], flags["batch"])


def _run_text(path: Path, flags: dict[str, Any]) -> None:
    from .exporter.bundle import Bundle
    from .exporter.run import run as answer_one

    bundle = Bundle.open(path)
    settings = _settings(bundle, flags)
    if flags["hint"] and not flags["choices"]:
        raise InputError("--hint goes with --choices.")
    asked = (flags["text"], flags["image"], flags["choices"], flags["hint"] or "")
    answer = answer_one(bundle, *asked, settings, flags["backend"], flags["precision"])
    if answer.truncated:
        click.echo("warning: the prompt was too long and lost its end", err=True)
    if flags["as_json"]:
        _print_json(vars(answer))
    elif answer.choice is not None and answer.choice >= 0:
        click.echo(f"{answer.text}  ({flags['choices'][answer.choice]})")
    else:
        click.echo(answer.text)
    if answer.choice == -1:
        click.echo("note: the answer names none of the choices", err=True)


def _run_data(path: Path, flags: dict[str, Any]) -> None:
    from .exporter.bundle import Bundle
    from .exporter.data import read_answers
    from .exporter.datasets import open_dataset
    from .exporter.judging import correct
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
    )
    # Of the whole file, where an earlier run answered a part of it.
    dataset, answers = open_dataset(flags["data"]), {answer.id: answer for answer in read_answers(flags["output"])}
    verdicts = [correct(request, answers[request.id]) for request in dataset.requests()]
    judged = [verdict for verdict in verdicts if verdict is not None]
    right = sum(judged)
    scores = dataset.score(answers) if dataset.score else {}
    if scores and not flags["as_json"]:
        from .exporter.tables import print_subsets

        print_subsets(scores)
    if flags["as_json"]:
        _print_json(
            {"output": str(flags["output"]), "answered": count, "judged": len(judged), "right": right}
            | ({"scores": {name: vars(row) for name, row in scores.items()}} if scores else {})
        )
    accuracy = f"; {right} of {len(judged)} are right ({right / len(judged):.1%})" if judged else ""
    _done(f"done: {count} requests answered into {flags['output']}{accuracy}")


def _run_component(path: Path, flags: dict[str, Any]) -> None:
    from .exporter.run import run_component

    if flags["inputs"] is None or flags["save_outputs"] is None:
        raise InputError("--component needs --inputs and --save-outputs.")
    outputs = run_component(
        path, flags["component"], flags["inputs"], flags["save_outputs"], flags["backend"], flags["precision"]
    )
    shapes = {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in outputs.items()}
    if flags["as_json"]:
        _print_json(shapes)
    _done(f"done: {len(outputs)} outputs of {flags['component']} in {flags['save_outputs']}")


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--shape", "shapes", multiple=True, metavar="NAME=LENGTH", help="A dynamic dimension for the FLOP count.")
@click.option("--verify", is_flag=True, help="Compare the digests of all files too.")
@_AS_JSON
def inspect(path: Path, shapes: tuple[str, ...], verify: bool, as_json: bool) -> None:
    """Say what is in a bundle or graph: components, types, memory sites, sizes, FLOPs."""
    from .exporter.inspection import inspect_path
    from .exporter.inspection.render import print_report

    if verify:
        from .exporter.bundle import Bundle

        Bundle.open(path, verify=True)
    report = inspect_path(path, shapes=dict(_length(shape) for shape in shapes))
    _print_json(report) if as_json else print_report(report)
    _done(f"done: {path} is a whole {report['kind']}" + (", all digests match" if verify else ""))


def _length(shape: str) -> tuple[str, int]:
    name, value = _pair("--shape", shape)
    if not value.isdecimal():
        raise InputError(f"--shape {shape!r} is not NAME=LENGTH.")
    return name, int(value)


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
@click.argument("folder", type=click.Path(path_type=Path), default=Path("memvp-demo"))
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
