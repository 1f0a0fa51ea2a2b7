"""Options that several commands take, and what is refused of them."""

import os
from pathlib import Path
from typing import Any

import click

from ..errors import InputError


class _NamedPath(click.Path):
    """A path that was given: an empty text, as of a variable that is not set, would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value).strip():
            self.fail("the name is empty; give a path.", param, ctx)
        return super().convert(value, param, ctx)


# Whoever reads the file says what cannot be read, as a lack of permission: click's own check is wrong use.
PATH = _NamedPath(path_type=Path, readable=False)
PRECISIONS = click.Choice(["fp32", "fp16", "bf16"])
QUANTIZED = click.Choice(["int8", "fp8", "int8-weights", "int4-weights"])
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
PRECISION = click.option(
    "--precision",
    type=click.Choice([*PRECISIONS.choices, *QUANTIZED.choices]),
    help="Which of the bundle's graphs (default: its own).",
)
BACKEND = click.option(
    "--backend", type=click.Choice(["onnxruntime", "tensorrt"]), default="onnxruntime", show_default=True
)
TRUST = click.option("--trust-bundle", is_flag=True, help="Load engines that bring host code of their own.")
LOWERING = click.option(
    "--lowering", type=click.Choice(["plugin", "native"]), help="Only engines of this lowering (default: the newest)."
)


def refuse_engine_options(trust_bundle: bool, lowering: str | None, *backends: str) -> None:
    """InputError for TRUST and LOWERING where no engine runs."""
    if "tensorrt" in backends:
        return
    if trust_bundle:
        raise InputError("--trust-bundle goes with --backend tensorrt: nothing else in a bundle is code.")
    if lowering:
        raise InputError("--lowering goes with --backend tensorrt: the other backends run the bundle's graphs.")


def pair(flag: str, text: str, form: str) -> tuple[str, str]:
    """The two sides of "KEY=VALUE", which a message calls `form`. InputError for any other text."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"{flag} {text!r} is not {form}.")
    return key, value
