"""A graph traced once serves every export of the same component in this process: tracing is most of the suite's time.

A trace knows no weights, so it depends on nothing but its arguments. `test_trace.py` calls the tracer itself.
"""

import sys
from collections.abc import Callable
from typing import Any

# Whoever traces graphs, and the tracer's own module, from which others take it as they need it; a module that is not
# imported yet is left for the next test.
CALLERS = ("export", "graphs.precision", "graphs.trace")
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
            _traced[key] = trace(component, precision, opset, keep_fp32)
        return _traced[key].clone()

    remembered.remembers = True  # type: ignore[attr-defined]
    return remembered


def _key(component: Any, precision: str, opset: int, keep_fp32: Any) -> str:
    """What the graph follows from: the component's description, and what its forward pass holds."""
    forward = component.forward
    held = [cell.cell_contents for cell in forward.__closure__ or ()]
    constants = {name: value.shape for name, value in component.constants.items()}
    parts = (component.inputs, component.outputs, component.weights, constants, forward.__qualname__, held)
    key = repr((component.name, *parts, precision, opset, [*keep_fp32]))
    assert " at 0x" not in key, "a forward pass holds something that has no description"
    return key
