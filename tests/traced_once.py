"""A graph traced once serves every export of the same component: tracing is most of the suite's time.

A trace knows no weights: it follows from its arguments, from the code that it runs, and from the packages. Traces are
kept in the user's cache, for test processes side by side and for the next run. `test_trace.py` calls the tracer itself.
"""

import ast
import fcntl
import hashlib
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from memvp_export.plugins.loader import cache_folder

# Whoever traces graphs, and the tracer's own module, from which others take it as they need it; a module that is not
# imported yet is left for the next test.
CALLERS = ("export", "graphs.precision", "graphs.trace")
_PROJECT = Path(__file__).parents[1]
_FOLDER = cache_folder() / "traces-of-tests"
_SECONDS_KEPT = 7 * 24 * 3600
_traced: dict[str, Any] = {}


def keep_traces() -> None:
    """Put the remembering tracer in the place of the tracer in the callers that are imported."""
    for name in CALLERS:
        module = sys.modules.get(f"memvp_export.exporter.{name}")
        trace = getattr(module, "trace", None)
        if trace is not None and not hasattr(trace, "remembers"):
            module.trace = _remembering(trace)  # type: ignore[union-attr]


def _remembering(trace: Callable[..., Any]) -> Callable[..., Any]:
    def remembered(component: Any, precision: str, opset: int, keep_fp32: Any = ()) -> Any:
        key = _key(component, precision, opset, keep_fp32)
        if key not in _traced:
            _traced[key] = _kept(key, lambda: trace(component, precision, opset, keep_fp32))
        return _traced[key].clone()

    remembered.remembers = True  # type: ignore[attr-defined]
    return remembered


def _key(component: Any, precision: str, opset: int, keep_fp32: Any) -> str:
    """The digest of what the graph follows from: the component's description, what its forward pass holds, and code."""
    forward = component.forward
    held = [cell.cell_contents for cell in forward.__closure__ or ()]
    constants = {name: value.shape for name, value in component.constants.items()}
    depth = component.depth and component.depth.stems
    parts = (component.inputs, component.outputs, component.weights, constants, depth, forward.__qualname__, held)
    told = repr((component.name, *parts, precision, opset, [*keep_fp32]))
    assert " at 0x" not in told, "a forward pass holds something that has no description"
    return hashlib.sha256((told + _code(forward.__code__.co_filename)).encode()).hexdigest()[:32]


@cache
def _code(file: str) -> str:
    """The digests of the tracer, of a file, and of all that they import of this project; Python's version, and those of
    the packages."""
    found, left = set[Path](), [_PROJECT / "exporter" / "graphs" / "trace.py", Path(file)]
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += _imported(path)
    packages = sorted(f"{one.name} {one.version}" for one in metadata.distributions())
    return repr((sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in found), packages, sys.version))


def _imported(path: Path) -> list[Path]:
    """The files of this project that a file imports, those of its functions' own imports too."""
    files: list[Path] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        words = (node.module or "").split(".")
        if node.level:
            place = path.parents[node.level - 1].joinpath(*words)
        elif words[0] == "memvp_export":
            place = _PROJECT.joinpath(*words[1:])
        else:
            continue
        files += [place.with_suffix(".py"), *(place / f"{name.name}.py" for name in node.names)]
    return [file for file in files if file.is_file()]


def _kept(key: str, trace: Callable[[], Any]) -> Any:
    """The graph of a key, which is traced where it is not kept yet."""
    import onnx
    import onnx_ir as ir

    file = _folder() / f"{key}.onnx"
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            made = trace()
            # Whatever has no value yet is said to have it elsewhere.
            for value in made.graph.initializers.values():
                if value.const_value is None:
                    kind = {"dtype": value.dtype, "shape": value.shape, "name": value.name}
                    value.const_value = ir.ExternalTensor("-", None, None, **kind)
            onnx.save(ir.to_proto(made), file.with_suffix(".partial"))
            file.with_suffix(".partial").replace(file)
    file.touch()
    model = ir.from_proto(onnx.load(file, load_external_data=False))
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = None
    return model


@cache
def _folder() -> Path:
    """Where the graphs are; those that no run has asked for in a while are removed."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    for file in _FOLDER.iterdir():
        if time.time() - file.stat().st_mtime > _SECONDS_KEPT:
            file.unlink(missing_ok=True)
    return _FOLDER
