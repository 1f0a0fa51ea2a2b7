"""A pickle reader that cannot run anything: names outside a short list are refused, classes become inert records."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import InputError
from .lazy import LazyTensor

SCRIPT_MODULE = "__torch__."

STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
SCRIPT_HELPERS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")

# Packages whose objects training loops leave in checkpoints; they are kept as records and never imported.
INERT_PACKAGES = (
    *("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities", "torchmetrics", "omegaconf"),
    *("sacred", "numpy", "pathlib", "torch.optim", "torch.device", "torch.storage.TypedStorage", "vilt", "meter"),
    *("argparse.Namespace", "collections.defaultdict", "collections.Counter", "collections.deque", "datetime"),
    *("transformers", "timm", "typing", "_codecs.encode"),
)
INERT_BUILTINS = {"set", "frozenset", "list", "dict", "tuple", "int", "float", "str", "bool", "bytes", "bytearray"}
INERT_BUILTINS |= {"complex", "slice", "range", "object"}


DEEPEST_TUPLE = 64


class Inert:
    """An object of the pickle whose class is not imported: its arguments, its state, readable as attributes, and, of a
    mapping, its items under texts."""

    __slots__ = ("args", "items", "state")
    origin: ClassVar[str] = ""

    args: tuple[Any, ...]
    state: dict[str, Any]
    items: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        self = object.__new__(cls)
        self.args = args
        self.state = dict(kwargs)
        self.items = {}
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return self.state[name]
        except KeyError:
            raise AttributeError(f"{self.origin} has no {name}") from None

    def absorb(self, state: Any) -> None:
        """Keeps the attributes of a pickled state; anything else than attributes is dropped."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.state.update((key, value) for key, value in part.items() if isinstance(key, str))

    def append(self, item: Any) -> None:
        """Drops an item of a pickled container."""

    extend = add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keeps an item of a pickled mapping, as configs may be, where its key is a text; drops others."""
        if isinstance(key, str):
            self.items[key] = value


@dataclass(frozen=True, slots=True)
class StorageType:
    """Stands for a storage class of torch."""

    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of `length` elements in the archive, under its key."""

    dtype: torch.dtype
    key: str
    length: int


TensorAt = Callable[[Storage, int, tuple[int, ...], tuple[int, ...]], LazyTensor]


def unpickle(data: bytes, where: str, tensor_at: TensorAt) -> Any:
    """The object in `data`; tensors come from tensor_at(storage, offset, shape, strides), counted in elements.

    InputError for a name that is not on the list, and for data that is damaged. Nothing of the file is executed.
    """
    try:
        return _Unpickler(data, where, tensor_at).load()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where}: the list of its tensors is damaged ({type(error).__name__}: {error}). Download or copy it again."
        ) from None


def _checked(load_tuple: Callable[[Any], None]) -> Callable[[Any], None]:
    def load(self: "_Unpickler") -> None:
        load_tuple(self)
        self._check_depth()

    return load


# The interpreter's own C unpickler allocates its memo by the largest index in the data: a few bytes could ask for
# gigabytes. The one in Python keeps it in a dict, and lets BUILD be restricted.
class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    # Extensions name objects without find_class; a bytearray is allocated before it is known to be there.
    for _opcode in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8):
        del dispatch[_opcode[0]]
    stack: list[Any]

    def __init__(self, data: bytes, where: str, tensor_at: TensorAt) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="backslashreplace")
        self._where = where
        self._tensor_at = tensor_at
        self._inert: dict[str, type[Inert]] = {}
        self._nested: dict[int, tuple[Any, int]] = {}
        self._known: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "torch.Size": _size,
            "torch._utils._rebuild_tensor": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
        }
        self._known |= {f"torch.jit._pickle.{helper}": _first for helper in SCRIPT_HELPERS}
        for name, dtype in STORAGE_DTYPES.items():
            self._known[f"torch.{name}"] = self._known[f"torch.storage.{name}"] = StorageType(dtype)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._known:
            return self._known[full]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        builtin = module in ("builtins", "__builtin__") and name in INERT_BUILTINS
        listed = any(full == package or full.startswith(f"{package}.") for package in INERT_PACKAGES)
        if builtin or listed or full.startswith(SCRIPT_MODULE):
            if full not in self._inert:
                self._inert[full] = type(name, (Inert,), {"__slots__": (), "origin": full})
            return self._inert[full]
        raise InputError(
            f"{self._where}: opening it as PyTorch does would call {full}, which no checkpoint needs. Nothing of the "
            "file was executed. If you trust it, load it where it was made and save its tensors alone: "
            "torch.save(model.state_dict(), ...)."
        )

    def persistent_load(self, pid: Any) -> Storage:
        match pid:
            case ("storage", StorageType(dtype), str(key), _, int(length)) if length >= 0:
                return Storage(dtype, key, length)
        raise pickle.UnpicklingError(f"unknown storage {pid!r}")

    def _rebuild_tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> LazyTensor:
        # rest: requires_grad, hooks, and, where a view is conjugated or negated without being copied, a note of it.
        if not isinstance(storage, Storage) or (len(rest) > 2 and rest[2]):
            raise pickle.UnpicklingError("a tensor of a kind that is not supported")
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
            raise pickle.UnpicklingError("a tensor with impossible sizes")
        return self._tensor_at(storage, offset, tuple(shape), tuple(strides))

    # The original sets attributes of any object on the stack, so also of the functions and tensors handed out here.
    def _load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.absorb(state)
        elif not isinstance(target, OrderedDict):
            raise pickle.UnpicklingError(f"a state for a {type(target).__name__}")

    dispatch[pickle.BUILD[0]] = _load_build

    def _check_depth(self) -> None:
        made = self.stack[-1]
        depth = 1 + max((self._nested.get(id(part), (None, 0))[1] for part in made), default=0)
        if depth > DEEPEST_TUPLE:
            raise pickle.UnpicklingError("tuples inside tuples without end")
        self._nested[id(made)] = (made, depth)

    # The interpreter hashes a tuple by recursion without a limit: as a key of a dict, a deep one ends the process.
    for _opcode in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
        dispatch[_opcode[0]] = _checked(dispatch[_opcode[0]])


def _size(values: Any) -> tuple[int, ...]:
    if not all(type(value) is int for value in values):
        raise pickle.UnpicklingError("a torch.Size that is not of integers")
    return tuple(values)


def _first(value: Any, *_: Any) -> Any:
    return value
