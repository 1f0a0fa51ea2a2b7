"""The number formats of quantized products, and the modes that combine them.

A format holds x as `scale * q`; q is `round(x / scale)` to the format's nearest value, ties to even, clipped to its
range: what QuantizeLinear computes with the zero point 0 (TensorRT takes no other).
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx

from ..exporter.errors import InputError


@dataclass(frozen=True)
class Format:
    """top is the magnitude that the end of a range is mapped to: 127, 7, or E4M3's largest number."""

    name: str
    onnx_type: int
    dtype: np.dtype
    lowest: float
    top: float
    bits: int

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """The format's nearest values, float32, of an array that is divided by its scale."""
        clipped = np.clip(values, self.lowest, self.top)
        if self.dtype.kind == "i" or self.bits == 4:
            return np.rint(clipped)
        return clipped.astype(self.dtype).astype(np.float32)

    def fake(self, values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
        """What is left of float32 `values` after quantizing and back."""
        return self.nearest(values / scale) * np.float32(scale)


INT8 = Format("int8", onnx.TensorProto.INT8, np.dtype(np.int8), -128, 127, 8)
INT4 = Format("int4", onnx.TensorProto.INT4, np.dtype(ml_dtypes.int4), -8, 7, 4)
FP8 = Format("fp8", onnx.TensorProto.FLOAT8E4M3FN, np.dtype(ml_dtypes.float8_e4m3fn), -448, 448, 8)


@dataclass(frozen=True)
class Mode:
    """What `--precision` names: the formats of weights and of activations (None: they stay as they are), whether
    weights have a scale for every block of inputs instead of every output, and the lowest opset that can say it."""

    name: str
    weights: Format
    activations: Format | None
    blocks: bool
    opset: int


MODES = {
    mode.name: mode
    for mode in (
        Mode("int8", INT8, INT8, blocks=False, opset=20),
        Mode("fp8", FP8, FP8, blocks=False, opset=20),
        Mode("int8-weights", INT8, None, blocks=False, opset=20),
        Mode("int4-weights", INT4, None, blocks=True, opset=21),
    )
}
# Larger blocks cost fewer scales; TensorRT wants them to divide the inputs.
BLOCKS = (64, 32, 16)


def mode_named(name: str) -> Mode:
    """The mode `name`; InputError that lists them where there is none."""
    if name not in MODES:
        raise InputError(f"there is no calibration for {name!r}; choose {', '.join(MODES)}.")
    return MODES[name]


def block_of(mode: Mode, inputs: int) -> int:
    """How many inputs of a weight share a scale: all, or the largest block of which there are several; 0 where there is
    none. TensorRT writes the weights of a single block out."""
    if not mode.blocks:
        return inputs
    return next((block for block in BLOCKS if inputs % block == 0 and inputs > block), 0)
