"""Meta's LLaMA folder: params.json and one or several consolidated.NN.pth (spec 1.8)."""

import re
from functools import partial
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from .json_file import integer, number, read_object
from .lazy import LazyTensor, concatenated
from .llama_layout import (
    EMBEDDING,
    GATE,
    LlamaCheckpoint,
    check_claims,
    check_heads,
    measured,
    meta_name,
    shapes,
)
from .matching import match, some
from .torch_file import flatten_module, read_torch_file

ROPE_THETA = 10000.0
IGNORED = ("rope.freqs",)
# The axis along which model-parallel shards hold parts; the norms are whole in every shard.
AXES = {
    "tok_embeddings.weight": 1,
    "output.weight": 0,
    "attention.wq.weight": 0,
    "attention.wk.weight": 0,
    "attention.wv.weight": 0,
    "attention.wo.weight": 1,
    "feed_forward.w1.weight": 0,
    "feed_forward.w2.weight": 1,
    "feed_forward.w3.weight": 0,
}
KEYS = {"dim": "dim", "layers": "n_layers", "vocab": "vocab_size"}


def read_meta_llama(folder: Path) -> LlamaCheckpoint:
    """Reads the folder; q and k get Hugging Face's row order when they are loaded.

    InputError for missing shards, grouped-query attention, another rotary base, and tensors that do not fit.
    """
    config = folder / "params.json"
    params = read_object(config)
    dim, heads = integer(params, "dim", config), integer(params, "n_heads", config)
    groups = integer(params, "n_kv_heads", config, heads)
    if groups != heads:
        raise InputError(
            f"{config}: n_kv_heads is {groups} and n_heads {heads}. MemVP is built on LLaMA-1, where they are equal; "
            "grouped-query attention (LLaMA-2 70B, LLaMA-3) is not supported."
        )
    theta = number(params, "rope_theta", config, ROPE_THETA)
    if theta != ROPE_THETA or params.get("use_scaled_rope"):
        raise InputError(f"{config} asks for another rotary base or scaling. MemVP's code knows LLaMA-1's 10000 only.")

    files = _shards(folder)
    found = _merged([flatten_module(read_torch_file(file), str(file)) for file in files], files, dim)
    # -1 stands for "as many as the tokenizer has".
    vocab = params.get("vocab_size")
    claims = {
        "dim": dim,
        "layers": integer(params, "n_layers", config),
        "vocab": None if vocab == -1 else integer(params, "vocab_size", config, None),
        "ffn_dim": None,
    }
    sizes = measured(found, meta_name(EMBEDDING), meta_name(GATE), "layers.", claims)
    check_claims(sizes, claims, KEYS, config)
    check_heads(sizes, heads, config)
    expected = shapes(sizes)
    matched = match(found, {meta_name(name): shape for name, shape in expected.items()}, str(folder), IGNORED)
    weights = {name: matched[meta_name(name)] for name in expected}
    for name, weight in weights.items():
        if name.endswith((".q_proj.weight", ".k_proj.weight")):
            weights[name] = weight.mapped(weight.shape, partial(_halves_from_pairs, heads=heads))
    return LlamaCheckpoint(
        dim=sizes.dim,
        layers=sizes.layers,
        heads=heads,
        ffn_dim=sizes.ffn_dim,
        vocab=sizes.vocab,
        norm_eps=number(params, "norm_eps", config),
        rope_theta=theta,
        dtype=weights[EMBEDDING].dtype,
        weights=weights,
        files=[config, *files],
    )


def _halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows of a head from (pair, member) to (member, pair) order: Meta rotates neighbours, Hugging Face halves."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _shards(folder: Path) -> list[Path]:
    numbered = {
        int(name[1]): path
        for path in folder.glob("consolidated.*.pth")
        if (name := re.fullmatch(r"consolidated\.(\d+)\.pth", path.name))
    }
    missing = [f"consolidated.{i:02}.pth" for i in range(max(numbered, default=0) + 1) if i not in numbered]
    if missing:
        raise InputError(f"{folder} lacks {some(missing)}. Download all shards of the model.")
    return [numbered[i] for i in sorted(numbered)]


def _merged(shards: list[dict[str, LazyTensor]], files: list[Path], dim: int) -> dict[str, LazyTensor]:
    first = shards[0]
    for shard, file in zip(shards[1:], files[1:], strict=True):
        if different := sorted(first.keys() ^ shard.keys()):
            raise InputError(
                f"{file} and {files[0].name} are not shards of one model; only one has: {some(different)}."
            )
    merged = {name: _joined(name, [shard[name] for shard in shards]) for name in first}
    embedding = merged.get(meta_name(EMBEDDING))
    width = embedding.shape[1] if embedding and len(embedding.shape) == 2 else dim
    if 0 < width < dim and dim * len(files) % width == 0:
        total = dim * len(files) // width
        raise InputError(
            f"{files[0].parent} holds {len(files)} of {total} shards: tok_embeddings has {width} of the {dim} columns "
            f"that params.json gives. Download consolidated.{len(files):02}.pth and what follows."
        )
    return merged


def _joined(name: str, parts: list[LazyTensor]) -> LazyTensor:
    axis = next((axis for suffix, axis in AXES.items() if name == suffix or name.endswith(f".{suffix}")), None)
    if axis is None or len(parts) == 1:
        return parts[0]
    for part in parts:
        if part.shape != parts[0].shape or part.dtype != parts[0].dtype or len(part.shape) != 2:
            raise InputError(f"{part.origin}: {list(part.shape)} {part.dtype} does not fit {parts[0].origin}.")
    return concatenated(parts, axis)
