"""The command line: its commands, and the exit code of every failure."""

import os
import signal
import sys
import traceback
from contextlib import suppress

import click

from .exporter.commands.bench import bench
from .exporter.commands.calibrate import calibrate
from .exporter.commands.check import check
from .exporter.commands.demo import demo
from .exporter.commands.doctor import doctor
from .exporter.commands.inspect import inspect
from .exporter.commands.onnx import onnx
from .exporter.commands.plugin import plugin
from .exporter.commands.run import run
from .exporter.commands.trt import trt
from .exporter.errors import ToolError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="memvp-export")
def cli() -> None:
    """Official MemVP and APT checkpoints to ONNX and TensorRT, with proof that the answers are still PyTorch's.

    Exit codes: 0 done, 1 the verdict is no, 2 wrong use or bad input, 3 this machine lacks something, 4 a bug,
    130 interrupted.
    """


for command in (onnx, calibrate, trt, check, run, bench, inspect, plugin, doctor, demo):
    cli.add_command(command)


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
