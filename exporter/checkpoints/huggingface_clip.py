"""A Hugging Face CLIP folder (CLIPModel or CLIPVisionModel), with its image tower under OpenAI's names (spec 1.9)."""

from pathlib import Path
from typing import Any

from ..errors import InputError
from .json_file import check_sizes, integer, number, read_object
from .lazy import LazyTensor, concatenated
from .matching import count_numbered, match
from .safetensors_folder import read_safetensors_folder

HEAD_WIDTH = 64
NORM_EPS = 1e-5
# What transformers takes where a config does not say.
IMAGE_HEADS, TEXT_HEADS = 12, 8
PREFIX = "vision_model."
LAYERS = "encoder.layers."
IGNORED = (
    *("text_model.*", "text_projection.weight", "visual_projection.weight", "logit_scale"),
    *("embeddings.position_ids", "position_ids"),
)

OUTER = {
    "embeddings.patch_embedding.weight": "visual.conv1.weight",
    "embeddings.class_embedding": "visual.class_embedding",
    "embeddings.position_embedding.weight": "visual.positional_embedding",
    "pre_layrnorm": "visual.ln_pre",
    "post_layernorm": "visual.ln_post",
}
INNER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def read_huggingface_tower(folder: Path) -> tuple[dict[str, LazyTensor], list[Path]]:
    """The tower under `visual.*`, q, k and v joined, and the files read.

    InputError for another family, another activation than QuickGELU, other norms, and tensors that do not fit.
    """
    path = folder / "config.json"
    config = _vision_config(read_object(path), path)
    found, files = read_safetensors_folder(folder)
    found = {name.removeprefix(PREFIX): tensor for name, tensor in found.items()}
    layers = count_numbered(found, LAYERS)
    names = _names(layers)
    _check_sizes(found, config, path)
    expected = {name: found[name].shape if name in found else () for name in names}
    matched = match(found, expected, str(folder), IGNORED)
    tower = {official: matched[name] for name, official in names.items() if official}
    for i in range(layers):
        for part in ("weight", "bias"):
            parts = [matched[f"{LAYERS}{i}.self_attn.{n}_proj.{part}"] for n in ("q", "k", "v")]
            if len({(p.shape, p.dtype) for p in parts}) > 1 or not parts[0].shape:
                raise InputError(f"{folder}: q, k and v of layer {i} do not have one shape and type.")
            tower[f"visual.transformer.resblocks.{i}.attn.in_proj_{part}"] = concatenated(parts, 0)
    return tower, [path, *files]


def _names(layers: int) -> dict[str, str | None]:
    """Hugging Face name -> official name; None for q, k and v, which have no name of their own."""
    both = ("weight", "bias")
    names: dict[str, str | None] = {}
    for name, official in OUTER.items():
        names |= {f"{name}.{p}": f"{official}.{p}" for p in both} if "norm" in name else {name: official}
    for i in range(layers):
        for name, official in INNER.items():
            names |= {f"{LAYERS}{i}.{name}.{p}": f"visual.transformer.resblocks.{i}.{official}.{p}" for p in both}
        names |= {f"{LAYERS}{i}.self_attn.{n}_proj.{p}": None for n in ("q", "k", "v") for p in both}
    return names


def _vision_config(config: dict[str, Any], path: Path) -> dict[str, Any]:
    family = config.get("model_type")
    if family not in ("clip", "clip_vision_model"):
        raise InputError(f"{path} describes a model of the family {family!r}; expected a CLIP.")
    if family == "clip":
        config = config.get("vision_config") or {}
        if not isinstance(config, dict):
            raise InputError(f"{path}: vision_config is no object.")
    activation = config.get("hidden_act", "quick_gelu")
    if activation != "quick_gelu":
        raise InputError(
            f"{path}: hidden_act is {activation!r}. MemVP's tower computes QuickGELU ('quick_gelu'), as OpenAI's CLIP."
        )
    if number(config, "layer_norm_eps", path, NORM_EPS) != NORM_EPS:
        raise InputError(f"{path}: layer_norm_eps is {config['layer_norm_eps']}; CLIP's is {NORM_EPS}.")
    return config


def _check_sizes(found: dict[str, LazyTensor], config: dict[str, Any], path: Path) -> None:
    tensors = {"num_hidden_layers": count_numbered(found, LAYERS)}
    conv = found.get("embeddings.patch_embedding.weight")
    if conv and len(conv.shape) == 4:
        tensors |= {"hidden_size": conv.shape[0], "patch_size": conv.shape[2]}
        heads = integer(config, "num_attention_heads", path, IMAGE_HEADS)
        if heads * HEAD_WIDTH != conv.shape[0]:
            raise InputError(
                f"{path}: {heads} heads on a width of {conv.shape[0]}; CLIP's heads are {HEAD_WIDTH} wide."
            )
    # A nested vision_config leaves out what equals the defaults of transformers.
    check_sizes(config, tensors, path)
