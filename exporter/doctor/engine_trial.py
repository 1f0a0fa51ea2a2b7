"""An engine of a small graph, built and run by build_engine in processes of their own."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..child_process import ChildFailed, ask_module
from ..engines import build_engine
from ..engines.targets import TARGETS
from .check import Check

if TYPE_CHECKING:
    from .trials import Trial

# A GPU that was idle, and TensorRT's libraries from a slow disk, can take minutes to answer.
TIMEOUT_S = 180.0
# Products in TensorFloat-32 keep 10 bits.
_TOLERANCE = 1e-2


def check_engine(name: str, target: str, trial: "Trial", library: Path | None, fix: str) -> list[Check]:
    """Two Checks: `name builds`, for an engine that is built and read back, and `name runs`, for its numbers on a GPU.

    library is the plugin's, where the trial needs it; fix is for either of them.
    """
    with tempfile.TemporaryDirectory(prefix="memvp-doctor-") as folder:
        recipe = _recipe(target, trial, library)
        path = Path(folder) / "recipe.json"
        path.write_text(json.dumps(recipe))
        (path.parent / recipe["onnx"]).write_bytes(trial.model)
        checks = []
        try:
            record = _build(path, recipe)
            layers = ", ".join(layer["type"] for layer in record["layers"])
            checks.append(Check(f"{name} builds", "ok", f"a network was parsed, built and read back: {layers}"))
            if record["gpu"] is None:
                nowhere = "not tried: no GPU can be used here"
                return [*checks, Check(f"{name} runs", "missing", nowhere, "Run engines where a GPU is.")]
            milliseconds = _run(path.parent, recipe, trial, library)
            checks.append(Check(f"{name} runs", "ok", f"gave the numbers that were expected in {milliseconds:.2f} ms"))
        except ChildFailed as failure:
            checks.append(Check(f"{name} {'runs' if checks else 'builds'}", "broken", str(failure), fix))
        return checks


def _recipe(target: str, trial: "Trial", library: Path | None) -> dict[str, Any]:
    inputs, outputs = trial.ports()
    plugin = library and {"library": str(library.resolve()), "operators": list(trial.operators), "embed": False}
    return {
        "schema": build_engine.SCHEMA,
        "component": trial.name,
        "onnx": "trial.onnx",
        "engine": "trial.engine",
        "record": "trial.json",
        "target": target,
        "precision": "fp32",
        "lowering": "plugin" if plugin else "native",
        "memory_sites": len(trial.operators),
        "inputs": inputs,
        "outputs": outputs,
        "cache": None,
        "profiles": [trial.profile()],
        "workspace": None,
        "builder_effort": None,
        "timing_cache": None,
        "plugin": plugin,
    }


def _build(path: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """The record of the engine of a recipe; ChildFailed where it is not what the recipe asks for."""
    from ..engines.readback import verdict

    answer = ask_module(build_engine.__name__, "build", str(path), timeout=TIMEOUT_S)
    try:
        record: dict[str, Any] = json.loads(Path(answer["record"]).read_bytes())
        failures = verdict(recipe, record)
    except (KeyError, TypeError, OSError, ValueError) as error:
        raise ChildFailed(f"the record of the engine cannot be read: {error!r}") from error
    if failures:
        raise ChildFailed(failures[0])
    return record


def _run(folder: Path, recipe: dict[str, Any], trial: "Trial", library: Path | None) -> float:
    """Milliseconds of one run on the trial's inputs; ChildFailed where its numbers are others than the trial's."""
    import numpy as np

    for name, array in trial.inputs.items():
        np.save(folder / f"{name}.npy", array)
    command = ["run", str(folder / recipe["engine"]), "--module", TARGETS[recipe["target"]].module]
    command += ["--inputs", str(folder), "--outputs", str(folder / "out")]
    command += ["--plugin", str(library)] if library else []
    answer = ask_module(build_engine.__name__, *command, timeout=TIMEOUT_S)
    try:
        found = np.load(folder / "out" / f"{recipe['outputs'][0]['name']}.npy")
        milliseconds = float(answer["milliseconds"])
    except (KeyError, OSError, ValueError) as error:
        raise ChildFailed(f"the result of the engine cannot be read: {error!r}") from error
    if found.shape != trial.output.shape or not np.allclose(found, trial.output, _TOLERANCE, _TOLERANCE):
        raise ChildFailed(f"gave {found.tolist()} in place of {trial.output.tolist()}")
    return milliseconds
