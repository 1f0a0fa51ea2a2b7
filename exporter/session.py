"""What can run a component: the PyTorch reference, ONNX Runtime, a TensorRT engine. Everything above uses only this."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

Arrays = dict[str, np.ndarray]


class Session(Protocol):
    """Runs components by name on NumPy arrays under the names of design section 5.

    bfloat16 tensors are arrays of dtype ml_dtypes.bfloat16.
    """

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        """All outputs of one call, or those named in `outputs`. Raises InputError for wrong names, shapes or dtypes."""
        ...
