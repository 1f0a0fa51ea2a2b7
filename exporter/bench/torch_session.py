"""PyTorch eager with all weights in memory, on the GPU where there is one: what an export has to be faster than."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bundle import Bundle
from ..cache import past_of
from ..console import size
from ..errors import EnvironmentLack, InputError
from ..graphs.stored import stored_weights
from ..keep_fp32 import is_kept
from ..kv_cache import KVCache
from ..machine import available_memory
from ..models.component import Component, constants_of
from ..models.family import components_of
from ..precisions import DTYPES
from ..session import Timing


class TorchSession:
    """A Session over the family's forward pass on the bundle's own weights, read when a component is first run.

    On CUDA it computes in `precision`, with float32 where the graphs have it. On a CPU, which is slow in half, it is
    float32 whatever is asked. Attributes: device; precision, the one it computes in.
    """

    def __init__(self, bundle: Bundle, precision: str, device: str | None = None) -> None:
        """Raises EnvironmentLack where the weights do not fit into memory, InputError for a damaged bundle."""
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = "fp32" if self.device.type == "cpu" else precision
        components = components_of(bundle.manifest["family"], bundle.manifest["config"])
        graphs = {part.name: bundle.graph(part.name, _stored(bundle, part.name, precision)) for part in components}
        self._stored = {part.name: stored_weights(graphs[part.name], part) for part in components}
        self._stored_constants = constants_of(components)
        self._components = {part.name: part for part in components}
        self._entries = bundle.manifest["components"]
        self._keep = {part.name: bundle.keep_fp32(part.name, precision) for part in components}
        self._weights: dict[str, dict[str, Tensor]] = {}
        _require_memory(self.device, sum(self._bytes(part) for part in components))

    def run(self, component: str, inputs: Mapping[str, Any], outputs: list[str] | None = None) -> dict[str, Any]:
        """See Session.run. Of what `keep` or a `cache` gave nothing is copied, and the present of such a past is a
        tensor too."""
        part = self._part(component, inputs)
        with _memory_said(part):
            return _returned(self._forward(part, self._given(part, inputs), outputs), inputs)

    def cache(self, component: str, batch: int) -> KVCache:
        """An empty cache of tensors on the device."""
        return _TensorCache(self._entries[component], self.precision, batch, self.device)

    def keep(self, component: str, inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Some inputs of a component as tensors on the device."""
        part = self._components[component]
        dtypes = {port.name: port.dtype for port in part.inputs}
        with _memory_said(part):
            return {name: self._tensor(array, dtypes[name]) for name, array in inputs.items()}

    def close(self) -> None:
        """Give the weights' memory back."""
        self._weights.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _kinds(self, part: Component) -> dict[str, torch.dtype]:
        """The types of a component's weights."""
        half = getattr(torch, DTYPES[self.precision])
        return {name: torch.float32 if weight.float32 else half for name, weight in part.weights.items()}

    def _bytes(self, part: Component) -> int:
        kinds = self._kinds(part)
        return sum(
            kinds.get(name, torch.float32).itemsize * math.prod(tensor.shape)
            for name, tensor in self._stored[part.name].items()
        )

    def _part(self, component: str, inputs: Mapping[str, Any]) -> Component:
        if component not in self._components:
            raise InputError(f"there is no component {component!r}; there is {', '.join(self._components)}")
        part = self._components[component]
        if missing := [port.name for port in part.inputs if port.name not in inputs]:
            raise InputError(f"{component} needs the inputs {', '.join(missing)}")
        return part

    def _given(self, part: Component, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        return {port.name: self._tensor(inputs[port.name], port.dtype) for port in part.inputs}

    def _tensor(self, array: Any, dtype: str) -> Tensor:
        """An array, or a tensor that was kept, in the type that the forward pass takes, on the device."""
        if isinstance(array, Tensor):
            return array
        kinds = {"int64": torch.int64, "float32": torch.float32, "graph": getattr(torch, DTYPES[self.precision])}
        array = np.ascontiguousarray(array)
        if array.dtype.name == "bfloat16":
            tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(array)
        return tensor.to(kinds[dtype]).to(self.device)

    def _forward(self, part: Component, tensors: dict[str, Tensor], outputs: list[str] | None) -> dict[str, Tensor]:
        with torch.inference_mode():
            results = part.forward(self._loaded(part), tensors, outputs)
        names = [port.name for port in part.outputs]
        # What nobody wants may be missing at the end.
        return {name: result for name, result in zip(names, results, strict=False) if not outputs or name in outputs}

    def _loaded(self, part: Component) -> dict[str, Tensor]:
        if part.name not in self._weights:
            half = getattr(torch, DTYPES[self.precision])
            keep = self._keep[part.name]
            kinds = {
                name: torch.float32 if weight.float32 or is_kept(name, keep) else half
                for name, weight in part.weights.items()
            }
            self._weights[part.name] = {
                name: tensor.load().to(self.device, kinds.get(name, torch.float32))
                for name, tensor in (self._stored[part.name] | self._stored_constants).items()
            }
        return self._weights[part.name]


class CudaTorchSession(TorchSession):
    """The same on a GPU, which can say where the time went."""

    def timed_run(
        self, component: str, inputs: Mapping[str, Any], outputs: list[str] | None = None
    ) -> tuple[dict[str, Any], Timing]:
        """As `run`, with where the time went: the parts lie between events of the current stream."""
        started = time.perf_counter()
        part = self._part(component, inputs)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        with _memory_said(part):
            marks[0].record()
            tensors = self._given(part, inputs)
            marks[1].record()
            results = self._forward(part, tensors, outputs)
            marks[2].record()
            arrays = _returned(results, inputs)
            marks[3].record()
            marks[3].synchronize()
        h2d, gpu, d2h = (before.elapsed_time(after) / 1e3 for before, after in pairwise(marks))
        return arrays, Timing(max(0.0, time.perf_counter() - started - h2d - gpu - d2h), h2d, gpu, d2h)


class _TensorCache(KVCache):
    """A KVCache of tensors. The reference returns whole caches, so that nothing is ever joined to them."""

    def __init__(self, component: Mapping[str, Any], precision: str, batch: int, device: torch.device) -> None:
        self._device = device
        super().__init__(component, precision, batch)

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
        return torch.zeros(shape, dtype=getattr(torch, dtype.name), device=self._device)


def open_torch(bundle: Bundle, precision: str) -> TorchSession:
    """The session for this machine."""
    return (CudaTorchSession if torch.cuda.is_available() else TorchSession)(bundle, precision)


def _stored(bundle: Bundle, component: str, precision: str) -> str:
    """The graph whose weights are read: that of the precision, or else the bundle's own."""
    graphs = bundle.manifest["components"][component]["graphs"]
    return precision if precision in graphs else str(bundle.manifest["precision"])


def _require_memory(device: torch.device, needed: int) -> None:
    """Raise EnvironmentLack where weights of so many bytes do not fit into what is free where they are to lie."""
    where, available = "memory", available_memory()
    if device.type == "cuda":
        where, available = f"memory of {torch.cuda.get_device_name(device)}", torch.cuda.mem_get_info(device)[0]
    if device.type != "meta" and available is not None and needed > available:
        raise EnvironmentLack(
            f"PyTorch would hold {size(needed)} of weights, and {size(available)} of {where} are available: measure "
            "the other backends alone (--backend onnxruntime)."
        )


@contextmanager
def _memory_said(part: Component) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EnvironmentLack(
            f"PyTorch has too little memory on the GPU to run {part.name}: measure fewer rows (--batch), shorter "
            "prompts, or the other backends alone."
        ) from error


def _returned(results: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays, but tensors where the past of a present was one."""
    return {
        name: tensor if isinstance(inputs.get(past_of(name)), Tensor) else _array(tensor)
        for name, tensor in results.items()
    }


def _array(tensor: Tensor) -> Any:
    tensor = tensor.cpu().contiguous()
    if tensor.dtype is not torch.bfloat16:
        return tensor.numpy()
    import ml_dtypes

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
