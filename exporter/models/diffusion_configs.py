"""diffusers' config.json of a U-Net and of an autoencoder -> the sizes of ours. What would change the formulas, and is
not in them, is refused by its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.json_file import integer, number
from ..errors import InputError
from .unet import UNetConfig
from .vae_decoder import VaeConfig

_DOWN = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
_UP = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
# What a list of levels, and the layers of one, can have without every tensor's name filling the memory.
_MOST_LEVELS = 8
_MOST_LAYERS = 64

# Of what is not read, the values that leave the formulas as they are.
_UNET_FIXED: dict[str, tuple[Any, ...]] = {
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default",),
    "resnet_out_scale_factor": (1,),
    "time_embedding_type": ("positional",),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
}
_UNET_READ = (
    *("in_channels", "out_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "up_block_types"),
    *("block_out_channels", "layers_per_block", "norm_num_groups", "norm_eps", "cross_attention_dim", "sample_size"),
    *("transformer_layers_per_block", "attention_head_dim", "use_linear_projection"),
)
# Softmax is float32 here in any case; without a class or a text added to the time its heads are nothing.
_UNET_FREE = ("dropout", "upcast_attention", "addition_embed_type_num_heads")
_VAE_FIXED: dict[str, tuple[Any, ...]] = {"out_channels": (3,), "act_fn": ("silu", "swish")}
_VAE_READ = (
    *("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups", "scaling_factor"),
    *("up_block_types", "use_post_quant_conv", "mid_block_add_attention"),
)
# Of the encoder, or of how diffusers runs it.
_VAE_FREE = ("in_channels", "down_block_types", "sample_size", "force_upcast", "use_quant_conv")


def unet_config(config: dict[str, Any], path: Path, prompts: Mapping[str, int]) -> UNetConfig:
    """The sizes in a UNet2DConditionModel's config.json, which lies at `path`; prompts has the rows of every site.
    InputError for sizes that do not fit together, and for what this version does not have, by its name."""
    _refuse_others(config, path, _UNET_FIXED, (*_UNET_READ, *_UNET_FREE))
    channels = _integers(config, "block_out_channels", path, [320, 640, 1280, 1280])
    down = _kinds(config, "down_block_types", path, _DOWN, [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"])
    up = _kinds(config, "up_block_types", path, _UP, ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3])
    latents, heads = integer(config, "in_channels", path, 4), config.get("attention_head_dim", 8)
    # The name is diffusers' own mistake: it is how many heads there are.
    given = {"attention_head_dim": [heads] * len(channels) if isinstance(heads, int) else heads}
    heads = _integers(given, "attention_head_dim", path, [])
    groups = integer(config, "norm_num_groups", path, 32)
    _require(path, len(channels) == len(down) == len(up) == len(heads), "its lists of levels are not equally long")
    _require(path, integer(config, "out_channels", path, 4) == latents, "it returns other channels than it takes")
    _require(path, not any(width % groups for width in channels), f"{groups} groups do not divide its channels")
    divided = all(width % number == 0 for width, number in zip(channels, heads, strict=True))
    _require(path, divided, "its heads do not divide its channels")
    shift = config.get("freq_shift", 0)
    _require(path, isinstance(shift, int | float) and 0 <= shift < channels[0] // 2, f"freq_shift is {shift!r}")
    return UNetConfig(
        latents=latents,
        channels=channels,
        down=down,
        up=up,
        layers=_layers(config, "layers_per_block", path, 2),
        transformers=_layers(config, "transformer_layers_per_block", path, 1),
        heads=heads,
        context=integer(config, "cross_attention_dim", path, 1280),
        linear=_truth(config, "use_linear_projection", path, False),
        groups=groups,
        eps=number(config, "norm_eps", path, 1e-5),
        cosine_first=_truth(config, "flip_sin_to_cos", path, True),
        frequency_shift=float(shift),
        prompts=dict(prompts),
    )


def vae_config(config: dict[str, Any], path: Path) -> VaeConfig:
    """The sizes of the decoder in an AutoencoderKL's config.json, which lies at `path`. InputError as above."""
    _refuse_others(config, path, _VAE_FIXED, (*_VAE_READ, *_VAE_FREE))
    channels = _integers(config, "block_out_channels", path, [64])
    blocks = _kinds(config, "up_block_types", path, {"UpDecoderBlock2D": True}, ["UpDecoderBlock2D"])
    groups = integer(config, "norm_num_groups", path, 32)
    _require(path, len(channels) == len(blocks), "its lists of levels are not equally long")
    _require(path, not any(width % groups for width in channels), f"{groups} groups do not divide its channels")
    return VaeConfig(
        latents=integer(config, "latent_channels", path, 4),
        channels=channels,
        layers=_layers(config, "layers_per_block", path, 1),
        groups=groups,
        post_quant=_truth(config, "use_post_quant_conv", path, True),
        attention=_truth(config, "mid_block_add_attention", path, True),
        scaling=number(config, "scaling_factor", path, 0.18215),
    )


def _refuse_others(
    config: Mapping[str, Any], path: Path, fixed: Mapping[str, tuple[Any, ...]], known: tuple[str, ...]
) -> None:
    """What nobody reads must be off, or have one of its fixed values."""
    wrong = [
        f"{key} {value!r}"
        for key, value in config.items()
        if not key.startswith("_") and key not in known and value not in fixed.get(key, (None, False))
    ]
    if wrong:
        raise InputError(
            f"{path} asks for what this family does not have: {', '.join(wrong)}. It takes Stable Diffusion 1.x and "
            "2.x."
        )


def _kinds(
    config: Mapping[str, Any], key: str, path: Path, known: Mapping[str, bool], default: list[str]
) -> list[bool]:
    names = config.get(key, default)
    _require(path, isinstance(names, list) and names, f"{key} is {names!r}")
    if other := [name for name in names if not isinstance(name, str) or name not in known]:
        raise InputError(f"{path}: {key} has {other[0]!r}; this family takes {', '.join(known)}.")
    return [known[name] for name in names]


def _integers(config: Mapping[str, Any], key: str, path: Path, default: list[int]) -> list[int]:
    values = config.get(key, default)
    good = isinstance(values, list) and all(type(value) is int and value > 0 for value in values)
    _require(path, good and 0 < len(values) <= _MOST_LEVELS, f"{key} is {values!r}")
    return list(values)


def _layers(config: dict[str, Any], key: str, path: Path, default: int) -> int:
    layers: int = integer(config, key, path, default)
    _require(path, layers <= _MOST_LAYERS, f"{key} is {layers}")
    return layers


def _truth(config: Mapping[str, Any], key: str, path: Path, default: bool) -> bool:
    value = config.get(key, default)
    _require(path, isinstance(value, bool), f"{key} is {value!r}")
    return bool(value)


def _require(path: Path, good: Any, problem: str) -> None:
    if not good:
        raise InputError(f"{path} cannot be used: {problem}.")
