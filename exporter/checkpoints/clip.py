"""The image tower of CLIP, from OpenAI's file or a Hugging Face folder, under OpenAI's names (spec 1.2, 1.9)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import InputError
from .huggingface_clip import HEAD_WIDTH, read_huggingface_tower
from .lazy import LazyTensor
from .matching import count_numbered, match, some
from .openai_clip import refuse_resnet
from .torch_file import flatten_module, read_torch_file

BLOCKS = "visual.transformer.resblocks."
# The projection into the space shared with texts is not part of the tower that MemVP uses.
IGNORED = ("visual.proj",)


@dataclass(frozen=True)
class ClipCheckpoint:
    """Sizes of the tower and its weights under `visual.*`, all blocks of the file among them.

    patch is the side of a patch in pixels, grid the number of patches along a side of the image; heads are width / 64.
    dtype is that of the patch convolution: norms and positions may be float32 beside half weights.
    """

    width: int
    blocks: int
    patch: int
    grid: int
    dtype: torch.dtype
    weights: dict[str, LazyTensor]
    files: list[Path]


def read_clip_tower(path: Path) -> ClipCheckpoint:
    """An OpenAI CLIP file (TorchScript archive or state dict), or a Hugging Face folder of a CLIP ViT.

    InputError for anything else than a ViT with heads of 64, square patches and QuickGELU.
    """
    if path.is_dir():
        found, files = read_huggingface_tower(path)
    else:
        names = flatten_module(read_torch_file(path), str(path))
        found, files = {name: tensor for name, tensor in names.items() if name.startswith("visual.")}, [path]
        if not found:
            raise InputError(
                f"{path} is no OpenAI CLIP file: it has no tensors visual.*, but {some(sorted(names)[:3])}. "
                "Give ViT-L-14.pt, or the folder of a Hugging Face CLIP."
            )
    return _checkpoint(found, str(path), files)


def _checkpoint(found: Mapping[str, LazyTensor], where: str, files: list[Path]) -> ClipCheckpoint:
    refuse_resnet(found, where, "ViT-L-14.pt")
    width, _, patch, _ = _shape(found, "visual.conv1.weight", 4, where)
    rows, _ = _shape(found, "visual.positional_embedding", 2, where)
    grid = math.isqrt(max(rows - 1, 0))
    if width % HEAD_WIDTH or grid * grid + 1 != rows or not width:
        raise InputError(
            f"{where}: width {width} and {rows} positions are not those of a CLIP ViT, which has heads of {HEAD_WIDTH} "
            "and a square of patches behind the class token."
        )
    blocks = count_numbered(found, BLOCKS)
    if blocks < 2:
        raise InputError(f"{where} has {blocks} blocks; the last one is skipped, so that at least 2 are needed.")
    weights = match(found, _shapes(width, blocks, patch, rows), where, IGNORED)
    return ClipCheckpoint(width, blocks, patch, grid, weights["visual.conv1.weight"].dtype, weights, files)


def _shape(found: Mapping[str, LazyTensor], name: str, dims: int, where: str) -> tuple[int, ...]:
    shape = found[name].shape if name in found else None
    if shape is None or len(shape) != dims:
        state = f"has {name} with {len(shape)} dimensions instead of {dims}" if shape is not None else f"lacks {name}"
        raise InputError(f"{where} is no CLIP ViT: it {state}.")
    return shape


def _shapes(width: int, blocks: int, patch: int, rows: int) -> dict[str, tuple[int, ...]]:
    per_block = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
    }
    expected: dict[str, tuple[int, ...]] = {
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (rows, width),
    }
    for i in range(blocks):
        expected |= {f"{BLOCKS}{i}.{name}": shape for name, shape in per_block.items()}
    return expected | {
        f"visual.{norm}.{part}": (width,) for norm in ("ln_pre", "ln_post") for part in ("weight", "bias")
    }
