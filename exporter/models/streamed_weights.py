"""The weights of a float32 reference, read from their files when the forward pass asks for them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.lazy import LazyTensor

# A model below this many float32 bytes is kept in memory; a larger one is read again tensor by tensor at every call.
KEEP_BYTES = 256 << 20
BLOCK_BYTES = 16 << 20


class StreamedWeights(Mapping[str, Tensor]):
    """float32 weights by official name, read when asked for and dropped after use, unless the model is small.

    A large matrix of a large model is never held whole where its file lets rows be read apart: see `RowsOnDemand`.
    """

    def __init__(self, tensors: Mapping[str, LazyTensor], keep_bytes: int = KEEP_BYTES) -> None:
        self._tensors = tensors
        self._keep = sum(tensor.nbytes // tensor.dtype.itemsize * 4 for tensor in tensors.values()) <= keep_bytes
        self._kept: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._kept:
            return self._kept[name]
        tensor = self._tensors[name]
        if not self._keep and tensor.load_rows is not None and len(tensor.shape) == 2 and tensor.nbytes > BLOCK_BYTES:
            return RowsOnDemand(tensor)  # type: ignore[return-value]
        loaded = tensor.load().float()
        if self._keep:
            self._kept[name] = loaded
        return loaded

    def __contains__(self, name: object) -> bool:
        # Mapping's own would read the tensor.
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class RowsOnDemand:
    """Stands for a float32 matrix [n,d] where PyTorch multiplies by it or looks rows up: F.linear reads it block by
    block, F.embedding only the rows that are asked for. An lm_head in float32 is the largest tensor of a 7B reference.
    """

    dtype = torch.float32

    def __init__(self, tensor: LazyTensor) -> None:
        """tensor has load_rows. Nothing is read yet."""
        self._tensor = tensor
        self.shape = torch.Size(tensor.shape)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """What PyTorch calls in place of `func` where an argument is a RowsOnDemand."""
        handlers: dict[Callable[..., Any], Callable[..., Tensor]] = {F.linear: _linear, F.embedding: _embedding}
        return handlers[func](*args) if func in handlers and isinstance(args[1], cls) else NotImplemented

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start to stop, float32 [stop - start,n]."""
        assert self._tensor.load_rows is not None
        return self._tensor.load_rows(start, stop).float()


def _linear(x: Tensor, weight: RowsOnDemand, bias: Tensor | None = None) -> Tensor:
    count, width = weight.shape
    result = x.new_empty(*x.shape[:-1], count)
    step = max(1, BLOCK_BYTES // (4 * width))
    for start in range(0, count, step):
        stop = min(start + step, count)
        result[..., start:stop] = F.linear(x, weight.rows(start, stop))
    return result if bias is None else result + bias


def _embedding(ids: Tensor, weight: RowsOnDemand, *options: object) -> Tensor:
    wanted, places = torch.unique(ids, return_inverse=True)
    table = torch.cat([weight.rows(row, row + 1) for row in wanted.tolist()])
    return table[places]
