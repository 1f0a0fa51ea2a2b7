"""The PyTorch reference: a family's forward pass in float32 on the source's own tensors."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.lazy import LazyTensor
from ..errors import InputError
from .component import Component, constants_of
from .streamed_weights import KEEP_BYTES, StreamedWeights


class TorchReference:
    """A Session over the reference: float32 in and out, whatever precision the checkpoint has."""

    def __init__(
        self,
        components: Sequence[Component],
        tensors: Mapping[str, LazyTensor],
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self.components = {component.name: component for component in components}
        self.weights = StreamedWeights({**tensors, **constants_of(components)}, keep_bytes)

    def run(
        self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None
    ) -> dict[str, np.ndarray]:
        """See Session.run. Graph-precision inputs may come in any floating type."""
        part = self.components[component]
        names = [port.name for port in part.outputs]
        if missing := [port.name for port in part.inputs if port.name not in inputs]:
            raise InputError(f"{component} needs the inputs {', '.join(missing)}")
        tensors = {port.name: _tensor(inputs[port.name], port.dtype) for port in part.inputs}
        with torch.inference_mode():
            results = part.forward(self.weights, tensors, outputs)
        return {
            name: result.numpy() for name, result in zip(names, results, strict=False) if not outputs or name in outputs
        }


def _tensor(array: np.ndarray, dtype: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int64 if dtype == "int64" else np.float32))
