"""The file that MemVP's training leaves: memory tables, projector and CLIP adapters (spec 1.8)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .lazy import LazyTensor
from .matching import match, some
from .torch_file import flatten_module, read_torch_file
from .unpickler import Inert

TABLES = ("adapter_emb1", "adapter_emb2")
BLOCKS = "backbone.visual.transformer.resblocks."
WRAPPER = "module."
# Saved by the official training, read by nothing.
UNUSED = ("adapter_modality_embedding.weight",)
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class MemvpAdapter:
    """What was trained beside the frozen models.

    weights: adapter_emb1 and adapter_emb2 [memory_rows, dim], adapter_proj.fc1 [projector_dim, vision_width] and fc2
    [dim, projector_dim] with biases, and the CLIP adapters backbone.visual.transformer.resblocks.N.adapter_mlp.fc1
    [adapter_dim, vision_width] and fc2 [vision_width, adapter_dim] of every block that runs. args are the training
    command's, empty where the file has none.
    """

    memory_rows: int
    dim: int
    projector_dim: int
    vision_width: int
    adapter_dim: int
    blocks: int
    weights: dict[str, LazyTensor]
    args: dict[str, Scalar]
    files: list[Path]


def read_memvp_adapter(path: Path, blocks: int) -> MemvpAdapter:
    """Reads checkpoint-N.pth ({'model': ...}) or the state dict alone, with or without DDP's `module.` prefix.

    blocks are those of the tower. The last one never runs: its adapter may be there and is left out. InputError names
    all tensors that do not fit.
    """
    content, found = _opened(path)
    memory = _memory(found, path)
    first = f"{BLOCKS}0.adapter_mlp.fc1.weight"
    if first not in found:
        raise InputError(f"{path} lacks the adapters of the CLIP tower, such as {first}.")
    adapters, adapter_dim, last = _adapters(found, blocks, memory.width, path)
    weights = match(found, memory.tensors | adapters, str(path), (*UNUSED, last))
    sizes = memory.rows, memory.dim, memory.narrow, memory.width
    return MemvpAdapter(*sizes, adapter_dim, blocks, weights, _training_args(content), [path])


@dataclass(frozen=True)
class EncoderDecoderAdapter:
    """What was trained beside a BART or a T5, whose names are those of `MemvpAdapter` (spec 2.3).

    adapter_dim is 0 where the tower has no adapters of its own. host are all tensors of other names: a state dict of
    the whole model has them, and they take the place of the base's.
    """

    memory_rows: int
    dim: int
    projector_dim: int
    vision_width: int
    adapter_dim: int
    weights: dict[str, LazyTensor]
    host: dict[str, LazyTensor]
    files: list[Path]


def read_encoder_decoder_adapter(path: Path, blocks: int = 0) -> EncoderDecoderAdapter:
    """Reads the state dict of the memory, or of a whole model with it, as `read_memvp_adapter` does; blocks are those
    of the tower, 0 where features are an input. InputError names all tensors of the memory that do not fit."""
    _, found = _opened(path)
    memory = _memory(found, path)
    expected, adapter_dim = memory.tensors, 0
    unused = [*UNUSED]
    if blocks > 1 and f"{BLOCKS}0.adapter_mlp.fc1.weight" in found:
        adapters, adapter_dim, last = _adapters(found, blocks, memory.width, path)
        expected, unused = expected | adapters, [*unused, last]
    own = {name: tensor for name, tensor in found.items() if name.startswith(("adapter_", BLOCKS))}
    weights = match(own, expected, str(path), unused)
    host = {name: tensor for name, tensor in found.items() if name not in own}
    sizes = memory.rows, memory.dim, memory.narrow, memory.width
    return EncoderDecoderAdapter(*sizes, adapter_dim, weights, host, [path])


@dataclass(frozen=True)
class _Memory:
    """Sizes of the tables and the projector, and the shapes of their tensors."""

    rows: int
    dim: int
    narrow: int
    width: int
    tensors: dict[str, tuple[int, ...]]


def _opened(path: Path) -> tuple[Any, dict[str, LazyTensor]]:
    """The object in the file, and its tensors without a wrapper's prefix; tables without the axis of a batch."""
    content = read_torch_file(path)
    state = content.get("model", content) if isinstance(content, dict) else content
    found = {name.removeprefix(WRAPPER): tensor for name, tensor in flatten_module(state, str(path)).items()}
    if missing := [name for name in (*TABLES, "adapter_proj.fc1.weight") if name not in found]:
        raise InputError(
            f"{path} is no MemVP adapter: it lacks {some(missing)}; it has {some(sorted(found)[:3])}. "
            "Give the checkpoint-N.pth that MemVP's training wrote."
        )
    tables = {name: tensor.reshape(*tensor.shape[1:]) for name, tensor in found.items() if _is_table(name, tensor)}
    return content, found | tables


def _memory(found: Mapping[str, LazyTensor], path: Path) -> _Memory:
    *_, rows, dim = _shape(found, "adapter_emb1", (3, 2), path)
    narrow, width = _shape(found, "adapter_proj.fc1.weight", (2,), path)
    given = found.get("adapter_proj.fc2.weight")
    if given is not None and given.shape[:1] != (dim,):
        raise InputError(
            f"{path}: adapter_emb1 has rows of {dim}, and adapter_proj.fc2.weight {list(given.shape)} makes others: "
            "both should be as wide as the model that they were trained with."
        )
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(TABLES, (rows, dim))
    expected |= {"adapter_proj.fc1.weight": (narrow, width), "adapter_proj.fc1.bias": (narrow,)}
    expected |= {"adapter_proj.fc2.weight": (dim, narrow), "adapter_proj.fc2.bias": (dim,)}
    return _Memory(rows, dim, narrow, width, expected)


def _adapters(
    found: Mapping[str, LazyTensor], blocks: int, width: int, path: Path
) -> tuple[dict[str, tuple[int, ...]], int, str]:
    """The shapes of the tower's adapters, their inner width, and a pattern of the last block's."""
    adapter_dim, _ = _shape(found, f"{BLOCKS}0.adapter_mlp.fc1.weight", (2,), path)
    expected: dict[str, tuple[int, ...]] = {}
    for i in range(blocks - 1):
        expected[f"{BLOCKS}{i}.adapter_mlp.fc1.weight"] = (adapter_dim, width)
        expected[f"{BLOCKS}{i}.adapter_mlp.fc2.weight"] = (width, adapter_dim)
    return expected, adapter_dim, f"{BLOCKS}{blocks - 1}.adapter_mlp.fc?.weight"


def _is_table(name: str, tensor: LazyTensor) -> bool:
    return name in TABLES and len(tensor.shape) == 3 and tensor.shape[0] == 1


def _shape(found: Mapping[str, LazyTensor], name: str, dims: tuple[int, ...], path: Path) -> tuple[int, ...]:
    shape = found[name].shape
    if len(shape) not in dims:
        raise InputError(f"{path}: {name} is {list(shape)}, needs {dims[0]} dimensions.")
    return shape


def _training_args(content: Any) -> dict[str, Scalar]:
    args = content.get("args") if isinstance(content, dict) else None
    values = args.state if isinstance(args, Inert) else args
    if not isinstance(values, dict):
        return {}
    return {str(key): value for key, value in values.items() if isinstance(value, Scalar)}
