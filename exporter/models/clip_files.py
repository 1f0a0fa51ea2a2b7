"""A CLIP's official files, both towers -> its sizes and its tensors under Hugging Face's names (spec 1.9)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.huggingface_clip import HEAD_WIDTH, IMAGE_HEADS, NORM_EPS, TEXT_HEADS
from ..checkpoints.json_file import check_sizes, integer, number, one_of, read_object
from ..checkpoints.lazy import LazyTensor
from ..checkpoints.matching import count_numbered, shapes_in
from ..checkpoints.openai_clip import read_openai_clip
from ..checkpoints.safetensors_folder import read_safetensors_folder
from ..errors import InputError
from . import clip_image, clip_text
from .clip_encoder import EncoderConfig
from .clip_image import ImageConfig
from .clip_text import TextConfig

# What transformers takes where a config does not say.
_END = 49407
# Older configs say so, whatever the id is: see clip_text.TextConfig.
_HIGHEST = 2
_ACTIVATIONS = ("quick_gelu", "gelu")
_PATCHES = f"{clip_image.NAME}.embeddings.patch_embedding.weight"
_TOKENS = f"{clip_text.NAME}.embeddings.token_embedding.weight"
# What a file may hold besides.
UNUSED = ("*.embeddings.position_ids",)


@dataclass(frozen=True)
class ClipFiles:
    """Both towers without prompts, all tensors of the files by Hugging Face's names, and the files."""

    image: ImageConfig
    text: TextConfig
    weights: dict[str, LazyTensor]
    files: list[Path]


def read_clip(path: Path) -> ClipFiles:
    """A Hugging Face folder of a CLIPModel, or OpenAI's file of a ViT. InputError for anything else; whether all
    tensors are there and fit is to be seen by `matching.match`."""
    if not path.is_dir():
        weights = read_openai_clip(path)
        shape = shapes_in(weights, path, "CLIP")
        image = {"num_attention_heads": max(1, shape(_PATCHES, 4)[0] // HEAD_WIDTH)}
        text = {"num_attention_heads": max(1, shape(_TOKENS, 2)[1] // HEAD_WIDTH), "eos_token_id": _HIGHEST}
        return ClipFiles(image_config(image, weights, path), text_config(text, weights, path), weights, [path])
    config_path = path / "config.json"
    config = read_object(config_path)
    if config.get("model_type") != "clip":
        raise InputError(
            f"{config_path} describes a model of the family {config.get('model_type')!r}; expected a 'clip' with both "
            "towers."
        )
    weights, files = read_safetensors_folder(path)
    dim = shapes_in(weights, config_path, "CLIP")("visual_projection.weight", 2)[0]
    check_sizes(config, {"projection_dim": dim}, config_path)
    return ClipFiles(
        image_config(_section(config, "vision_config", config_path), weights, config_path),
        text_config(_section(config, "text_config", config_path), weights, config_path),
        weights,
        [config_path, *files],
    )


def _section(config: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    section = config.get(key) or {}
    if not isinstance(section, dict):
        raise InputError(f"{path}: {key} is no object.")
    return section


def image_config(config: dict[str, Any], found: Mapping[str, LazyTensor], path: Path) -> ImageConfig:
    """The image tower of a `vision_config` and the tensors beside it. InputError where they are of different models,
    or of no square grid of square RGB patches."""
    shape = shapes_in(found, path, "CLIP")
    width, channels, patch, patch_width = shape(_PATCHES, 4)
    places = shape(f"{clip_image.NAME}.embeddings.position_embedding.weight", 2)[0] - 1
    grid = round(max(places, 0) ** 0.5)
    if grid**2 != places or not grid or channels != 3 or patch != patch_width:
        raise InputError(f"{path}: its image embeddings are of no square grid of square RGB patches.")
    check_sizes(config, {"patch_size": patch, "image_size": patch * grid, "num_channels": channels}, path)
    return ImageConfig(_encoder_config(config, found, clip_image.NAME, width, IMAGE_HEADS, path), patch, grid)


def text_config(config: dict[str, Any], found: Mapping[str, LazyTensor], path: Path) -> TextConfig:
    """The text tower of a `text_config` and the tensors beside it, under `text_model.*`. InputError as above, and where
    `eos_token_id` is no id."""
    shape = shapes_in(found, path, "CLIP")
    vocab, width = shape(_TOKENS, 2)
    positions = shape(f"{clip_text.NAME}.embeddings.position_embedding.weight", 2)[0]
    check_sizes(config, {"vocab_size": vocab, "max_position_embeddings": positions}, path)
    end = integer(config, "eos_token_id", path, _END)
    if end != _HIGHEST and end >= vocab:
        raise InputError(f"{path}: eos_token_id is {end}, beyond the {vocab} ids that are embedded.")
    encoder = _encoder_config(config, found, clip_text.NAME, width, TEXT_HEADS, path)
    return TextConfig(encoder, vocab, positions, None if end == _HIGHEST else end)


def _encoder_config(
    config: dict[str, Any], found: Mapping[str, LazyTensor], tower: str, width: int, heads: int, path: Path
) -> EncoderConfig:
    """The blocks of a tower, without prompts. A config leaves out what equals the defaults of transformers; heads is
    the one of these that tensors do not tell."""
    layers = count_numbered(found, f"{tower}.encoder.layers.")
    ffn_dim = shapes_in(found, path, "CLIP")(f"{tower}.encoder.layers.0.mlp.fc1.weight", 2)[0]
    check_sizes(config, {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": ffn_dim}, path)
    heads = integer(config, "num_attention_heads", path, heads)
    if width % heads:
        raise InputError(f"{path}: {heads} heads do not divide a width of {width}.")
    activation = one_of(config, "hidden_act", _ACTIVATIONS, path, "quick_gelu")
    return EncoderConfig(width, layers, heads, ffn_dim, activation, number(config, "layer_norm_eps", path, NORM_EPS))
