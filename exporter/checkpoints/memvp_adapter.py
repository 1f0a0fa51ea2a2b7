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
    content = read_torch_file(path)
    state = content.get("model", content) if isinstance(content, dict) else content
    found = {name.removeprefix(WRAPPER): tensor for name, tensor in flatten_module(state, str(path)).items()}
    if missing := [name for name in (*TABLES, "adapter_proj.fc1.weight") if name not in found]:
        raise InputError(
            f"{path} is no MemVP adapter: it lacks {some(missing)}; it has {some(sorted(found)[:3])}. "
            "Give the checkpoint-N.pth that MemVP's training wrote."
        )
    *_, rows, dim = _shape(found, "adapter_emb1", (3, 2), path)
    narrow, width = _shape(found, "adapter_proj.fc1.weight", (2,), path)
    first = f"{BLOCKS}0.adapter_mlp.fc1.weight"
    if first not in found:
        raise InputError(f"{path} lacks the adapters of the CLIP tower, such as {first}.")
    adapter_dim, _ = _shape(found, first, (2,), path)

    tables = {name: tensor.reshape(*tensor.shape[1:]) for name, tensor in found.items() if _is_table(name, tensor)}
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(TABLES, (rows, dim))
    expected |= {"adapter_proj.fc1.weight": (narrow, width), "adapter_proj.fc1.bias": (narrow,)}
    expected |= {"adapter_proj.fc2.weight": (dim, narrow), "adapter_proj.fc2.bias": (dim,)}
    for i in range(blocks - 1):
        expected[f"{BLOCKS}{i}.adapter_mlp.fc1.weight"] = (adapter_dim, width)
        expected[f"{BLOCKS}{i}.adapter_mlp.fc2.weight"] = (width, adapter_dim)
    unused = ("adapter_modality_embedding.weight", f"{BLOCKS}{blocks - 1}.adapter_mlp.fc?.weight")
    weights = match(found | tables, expected, str(path), unused)
    return MemvpAdapter(rows, dim, narrow, width, adapter_dim, blocks, weights, _training_args(content), [path])


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
