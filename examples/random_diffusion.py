"""Write a random APT-Stable-Diffusion source of any size, to try the tool or to measure it.

    python -m memvp_export.examples.random_diffusion DIR [--layers 1 ...]
    python -m memvp_export.examples.random_diffusion DIR --preset second   (as Stable Diffusion 2: linear, velocity)
    python -m memvp_export.examples.random_diffusion DIR --preset base     (Stable Diffusion 1.5, in float16)

The weights are random, so the images mean nothing; they are scaled so that text and prompts move them. The autoencoder
has no encoder: nothing of it is exported.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..exporter.models.clip_text import NAME, TextConfig, text_weights
from ..exporter.models.component import Weight
from ..exporter.models.diffusion_configs import unet_config, vae_config
from ..exporter.models.unet import plain_weights, sites
from ..exporter.models.vae_decoder import vae_weights
from .command_line import command_line
from .random_apt import Shapes, random_state, site_shapes
from .random_clip import write_vocabulary

PROMPTS = "prompts.safetensors"
_SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a source; the defaults are odd on purpose. levels are the channels of each level, attended how many of
    these, from the first, have attention; kinds are the attentions with prompts, "attn1", "attn2" or both by "both";
    text_prompts how many blocks of the text encoder have some; second makes it of the kind of Stable Diffusion 2."""

    first: int = 32
    levels: int = 2
    attended: int = 1
    layers: int = 1
    heads: int = 4
    groups: int = 8
    sample: int = 16
    vae_first: int = 16
    vae_levels: int = 2
    vae_layers: int = 1
    text_width: int = 48
    text_layers: int = 2
    text_heads: int = 3
    vocab: int = 620
    positions: int = 20
    prompt_rows: int = 7
    rank: int = 3
    kinds: str = "both"
    text_prompts: int = 1
    second: int = 0
    half: int = 0

    @property
    def channels(self) -> list[int]:
        """Channels of each level, which double up to four times."""
        return [self.first * min(2**level, 4) for level in range(self.levels)]


PRESETS = {
    "odd": Sizes(),
    "second": Sizes(heads=2, text_width=40, text_heads=5, kinds="attn2", text_prompts=0, second=1),
    "base": Sizes(
        first=320,
        levels=4,
        attended=3,
        layers=2,
        heads=8,
        groups=32,
        sample=64,
        vae_first=128,
        vae_levels=4,
        vae_layers=2,
        text_width=768,
        text_layers=12,
        text_heads=12,
        vocab=49408,
        positions=77,
        prompt_rows=50,
        rank=4,
        half=1,
    ),
}


def write_source(folder: Path, sizes: Sizes, seed: int = 0) -> Path:
    """Write a diffusers folder, prompts and model.toml below `folder`; returns the path of model.toml."""
    base, dtype = folder / "base", torch.float16 if sizes.half else torch.float32
    parts = {
        "unet": (unet_json(sizes), _shapes(plain_weights(_unet(sizes))), "diffusion_pytorch_model"),
        "vae": (vae_json(sizes), _shapes(vae_weights(vae_config(vae_json(sizes), folder))), "diffusion_pytorch_model"),
        "text_encoder": (text_json(sizes), _shapes(text_weights(_text(sizes))), "model"),
    }
    for number, (name, (config, shapes, stem)) in enumerate(parts.items()):
        (base / name).mkdir(parents=True, exist_ok=True)
        (base / name / "config.json").write_text(json.dumps(config, indent=1))
        state = {key: tensor.to(dtype) for key, tensor in random_state(shapes, seed + number).items()}
        save_file(state, base / name / f"{stem}.safetensors")
    write_vocabulary(base / "tokenizer", sizes.vocab, seed)
    pad = {"pad_token": "!" if sizes.second else "<|endoftext|>"}
    (base / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(pad))
    (base / "scheduler").mkdir(exist_ok=True)
    (base / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler_json(sizes), indent=1))
    (base / "model_index.json").write_text(json.dumps(index_json(sizes), indent=1))
    save_file(random_state(dict(prompt_shapes(sizes)), seed + 9), folder / PROMPTS)
    toml = folder / "model.toml"
    toml.write_text(f'family = "apt-stable-diffusion"\n\n[files]\nbase = "base"\ncheckpoint = "{PROMPTS}"\n')
    return toml


def _shapes(weights: Mapping[str, Weight]) -> Shapes:
    return {name: weight.shape for name, weight in weights.items()}


def _unet(sizes: Sizes) -> Any:
    return unet_config(unet_json(sizes), Path("unet"), {})


def _text(sizes: Sizes) -> TextConfig:
    from ..exporter.models.clip_encoder import EncoderConfig

    width, config = sizes.text_width, text_json(sizes)
    encoder = EncoderConfig(width, sizes.text_layers, sizes.text_heads, 4 * width, config["hidden_act"], 1e-5)
    return TextConfig(encoder, sizes.vocab, sizes.positions, None)


def unet_json(sizes: Sizes) -> dict[str, Any]:
    """The config.json of the U-Net."""
    down = ["CrossAttnDownBlock2D"] * sizes.attended + ["DownBlock2D"] * (sizes.levels - sizes.attended)
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sizes.sample,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "block_out_channels": sizes.channels,
        "layers_per_block": sizes.layers,
        "cross_attention_dim": sizes.text_width,
        "attention_head_dim": [sizes.heads * 2**i for i in range(sizes.levels)] if sizes.second else sizes.heads,
        "norm_num_groups": sizes.groups,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "use_linear_projection": bool(sizes.second),
        "upcast_attention": bool(sizes.second),
    }


def vae_json(sizes: Sizes) -> dict[str, Any]:
    """The config.json of the autoencoder."""
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [sizes.vae_first * min(2**level, 4) for level in range(sizes.vae_levels)],
        "down_block_types": ["DownEncoderBlock2D"] * sizes.vae_levels,
        "up_block_types": ["UpDecoderBlock2D"] * sizes.vae_levels,
        "layers_per_block": sizes.vae_layers,
        "latent_channels": 4,
        "norm_num_groups": sizes.groups,
        "scaling_factor": 0.18215,
    }


def text_json(sizes: Sizes) -> dict[str, Any]:
    """The config.json of the text encoder."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": sizes.text_width,
        "intermediate_size": 4 * sizes.text_width,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": sizes.text_heads,
        "max_position_embeddings": sizes.positions,
        "vocab_size": sizes.vocab,
        "hidden_act": "gelu" if sizes.second else "quick_gelu",
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def scheduler_json(sizes: Sizes) -> dict[str, Any]:
    """scheduler_config.json: PNDM, or DDIM on velocities."""
    if sizes.second:
        return {"_class_name": "DDIMScheduler", **_SCHEDULER, "clip_sample": False, "prediction_type": "v_prediction"}
    return {"_class_name": "PNDMScheduler", **_SCHEDULER, "skip_prk_steps": True}


def index_json(sizes: Sizes) -> dict[str, Any]:
    """model_index.json."""
    return {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", scheduler_json(sizes)["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }


def prompt_shapes(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The trained tensors of every site, with the prefixes of a file that holds those of both models."""
    for site, width, _ in sites(_unet(sizes)):
        if sizes.kinds in ("both", site.rsplit(".", 1)[1]):
            yield from site_shapes(f"unet.{site}", sizes.prompt_rows, sizes.rank, width, "scale").items()
    for i in range(sizes.text_prompts):
        site = f"text_encoder.{NAME}.encoder.layers.{i}.self_attn"
        yield from site_shapes(site, sizes.prompt_rows + 1, sizes.rank, sizes.text_width, "scale").items()


def main() -> None:
    """Command line."""
    command_line(__doc__, PRESETS, write_source)


if __name__ == "__main__":
    main()
