"""The two memory operators in NumPy, computed in float64: what every other implementation of them is compared with.

VisualMemoryFFN is stated as in the paper's code, with keys and values added up, and not in the factored form that the
torch operator, the ONNX body and the kernels use.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * _sigmoid(x),
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
}


def visual_memory_ffn(
    hidden: ArrayLike,
    ffn: ArrayLike,
    visual: ArrayLike,
    key_positions: ArrayLike,
    value_positions: ArrayLike,
    scale: float,
    activation: str,
) -> Array:
    """`ffn + scale * act(hidden (Z + Pk)^T) (Z + Pv)`, with Z = visual zero-padded to the rows of the tables.

    Shapes: hidden and ffn [B,T,d]; visual [B or 1,v,d]; key_positions Pk and value_positions Pv [p,d], v <= p; any
    floating dtype -> [B,T,d] float64. activation is a key of ACTIVATIONS. Raises ValueError where v > p.
    """
    h, base, z, keys, values = (_float64(array) for array in (hidden, ffn, visual, key_positions, value_positions))
    missing = len(keys) - z.shape[1]
    if missing < 0:
        raise ValueError(f"the visual memory has {z.shape[1]} rows, the position tables only {len(keys)}")
    z = np.pad(z, ((0, 0), (0, missing), (0, 0)))
    looked_up = ACTIVATIONS[activation](h @ (z + keys).swapaxes(1, 2)) @ (z + values)
    return base + scale * looked_up


def approximated_prompt(hidden: ArrayLike, attention: ArrayLike, keys: ArrayLike, values: ArrayLike) -> Array:
    """`attention + max_j(a_j) * (a values)` with `a = relu(hidden keys^T)`, token by token.

    Shapes: hidden and attention [B,N,d]; keys and values [p,d]; any floating dtype -> [B,N,d] float64.
    """
    a = np.maximum(_float64(hidden) @ _float64(keys).T, 0)
    return _float64(attention) + a.max(-1, keepdims=True) * (a @ _float64(values))


def _float64(array: ArrayLike) -> Array:
    return np.asarray(array).astype(np.float64)
