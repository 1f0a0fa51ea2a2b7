"""The PyTorch reference: a family's forward pass in float32 on the source's own tensors."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.lazy import LazyTensor
from ..errors import InputError
from .component import Component, constants_of

# A model below this many float32 bytes is kept in memory; a larger one is read again tensor by tensor at every call.
KEEP_BYTES = 256 << 20


class StreamedWeights(Mapping[str, Tensor]):
    """float32 weights by official name, read when asked for and dropped after use, unless the model is small."""

    def __init__(self, tensors: Mapping[str, LazyTensor], keep_bytes: int = KEEP_BYTES) -> None:
        self._tensors = tensors
        self._keep = sum(tensor.nbytes // tensor.dtype.itemsize * 4 for tensor in tensors.values()) <= keep_bytes
        self._kept: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._kept:
            return self._kept[name]
        tensor = self._tensors[name].load_float32()
        if self._keep:
            self._kept[name] = tensor
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


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
