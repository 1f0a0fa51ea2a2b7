"""`memvp-export run --component`: raw tensors through one component."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import console
from ..errors import InputError


def run_component(bundle: Path, flags: Mapping[str, Any], engine: Mapping[str, Any]) -> None:
    """Write what the component makes of the inputs, and say its shapes; engine holds what opens a session."""
    from ..run import run_component as run_one

    if flags["inputs"] is None or flags["save_outputs"] is None:
        raise InputError("--component needs --inputs and --save-outputs.")
    outputs = run_one(bundle, flags["component"], flags["inputs"], flags["save_outputs"], **engine)
    if flags["as_json"]:
        console.print_json(
            {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in outputs.items()}
        )
    console.done(f"done: {len(outputs)} outputs of {flags['component']} in {flags['save_outputs']}")
