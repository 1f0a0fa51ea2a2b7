"""What can run a component: the PyTorch reference, ONNX Runtime, a TensorRT engine. Everything above uses only this."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .errors import InputError, VerdictError
from .precisions import DTYPES

Arrays = dict[str, np.ndarray]


class Session(Protocol):
    """Runs components by name on NumPy arrays under the names of docs/bundle.md.

    bfloat16 tensors are arrays of dtype ml_dtypes.bfloat16. A session that can let tensors stay where it computes has
    two more methods, see kept.py: `cache(component, batch)`, an empty Cache, and `keep(component, inputs)`, inputs for
    many calls. What they give is taken in place of arrays, and the present of such a past is no array either.
    """

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        """All outputs of one call, or those named in `outputs`. Raises InputError for wrong names, shapes or dtypes."""
        ...


@dataclass(frozen=True)
class Timing:
    """Seconds of one call on a GPU: copies of the inputs, the execution and copies of the outputs as the GPU's own
    clock has them, and host, all the rest of the call's wall time (checks, casts, launches)."""

    host: float
    h2d: float
    gpu: float
    d2h: float


def require_finite(values: np.ndarray, gave: str, precision: str | None = None) -> np.ndarray:
    """The values. Raises VerdictError, which begins with `gave` such as "the model gave logits", where one is not
    finite; precision is that of the model, where it is known."""
    if not np.isfinite(values).all():
        if precision == "fp32":
            raise VerdictError(
                f"{gave} that are not finite, in float32, the widest precision: values of this input are too large, or "
                "those of the model are damaged. Run `memvp-export check` on the bundle: it tells which."
            )
        raise VerdictError(
            f"{gave} that are not finite: its precision overflows on this input. Run `memvp-export check` on the "
            "bundle, or export it in another precision."
        )
    return values


def dtype_of(name: str, precision: str) -> np.dtype:
    """The NumPy type of a port's dtype: "graph" is that of the precision "fp32", "fp16" or "bf16"."""
    name = DTYPES[precision] if name == "graph" else name
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def cast_input(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """An input as contiguous array of the type that a graph takes: any integers for integers, any floats for floats.

    Raises InputError where it is of the other kind, or an integer is too large for a smaller type."""
    given = array.dtype
    integers, wanted_integers = given.kind in "iub", dtype.kind in "iub"
    floats = given.kind == "f" or given.name == "bfloat16"
    if not (integers if wanted_integers else floats):
        raise InputError(f"the input {name!r} is {given}, the graph takes {dtype}")
    cast = np.ascontiguousarray(array, dtype)
    if wanted_integers and dtype.itemsize < given.itemsize and not np.array_equal(cast, array):
        raise InputError(f"the input {name!r} has values that {dtype} cannot hold")
    return cast
