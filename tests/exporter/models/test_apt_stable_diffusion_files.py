"""What is read of a diffusers folder and a file of prompts, and what is refused, with a message that says why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from memvp_export.examples.random_apt import save_lightning
from memvp_export.examples.random_diffusion import PRESETS, PROMPTS, write_source
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models.family import load
from safetensors.torch import load_file, save_file

SITE = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("odd")
    write_source(made, PRESETS["odd"])
    return made


@pytest.fixture
def folder(odd: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(odd, tmp_path / "source"))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def retrain(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / PROMPTS)), folder / PROMPTS)


def config_of(part: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "base" / part / "config.json", **values)


def prompts(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    return lambda folder: retrain(folder, change)


def options(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        toml = folder / "model.toml"
        toml.write_text(toml.read_text() + f"\n[options]\n{text}\n")

    return write


def of_vilt(folder: Path) -> None:
    state = {"transformer.blocks.0.attn.APT.mm_tokens": torch.zeros(3, 8), "pooler.dense.bias": torch.zeros(8)}
    save_lightning(folder / "epoch=9.ckpt", state, {})
    toml = folder / "model.toml"
    toml.write_text(toml.read_text().replace(PROMPTS, "epoch=9.ckpt"))


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "SDXL": (
        lambda folder: edit(folder / "base" / "model_index.json", _class_name="StableDiffusionXLPipeline"),
        "describes a StableDiffusionXLPipeline; this family takes Stable Diffusion 1.x and 2.x",
    ),
    "another text encoder": (
        lambda folder: edit(folder / "base" / "model_index.json", text_encoder=["transformers", "T5EncoderModel"]),
        "text_encoder is a T5EncoderModel; this family takes a CLIPTextModel",
    ),
    "no pipeline": (lambda folder: (folder / "base" / "model_index.json").unlink(), "it has no model_index.json"),
    "no weights": (
        lambda folder: (folder / "base" / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        "It needs diffusion_pytorch_model.safetensors, or",
    ),
    "no scheduler": (
        lambda folder: (folder / "base" / "scheduler" / "scheduler_config.json").unlink(),
        "scheduler_config.json is not a file",
    ),
    "a scheduler that is none": (
        lambda folder: edit(folder / "base" / "scheduler" / "scheduler_config.json", _class_name="os.system"),
        "its _class_name is 'os.system'",
    ),
    "an added embedding": (config_of("unet", addition_embed_type="text_time"), "addition_embed_type 'text_time'"),
    "an entry nobody knows": (config_of("unet", swirl=3), "asks for what this family does not have: swirl 3"),
    "another activation": (config_of("vae", act_fn="mish"), "act_fn 'mish'"),
    "latents with a mean": (config_of("vae", latents_mean=[0.0] * 4), "latents_mean [0.0, 0.0, 0.0, 0.0]"),
    "another block": (
        config_of("unet", down_block_types=["CrossAttnDownBlock2D", "AttnDownBlock2D"]),
        "down_block_types has 'AttnDownBlock2D'",
    ),
    "inpainting": (config_of("unet", in_channels=9, out_channels=9), "a U-Net for inpainting or other conditions"),
    "more levels than blocks": (config_of("unet", block_out_channels=[32, 64, 64]), "not equally long"),
    "heads that do not divide": (config_of("unet", attention_head_dim=5), "its heads do not divide its channels"),
    "no heads": (config_of("unet", attention_head_dim=0), "attention_head_dim is [0, 0]"),
    "a block without a name": (config_of("unet", up_block_types=[["UpBlock2D"], {}]), "up_block_types has"),
    "more layers than memory": (config_of("unet", layers_per_block=10**9), "layers_per_block is 1000000000"),
    "images larger than any": (config_of("unet", sample_size=10**6), "images of 2000000 pixels are more than the 8192"),
    "another text width": (config_of("unet", cross_attention_dim=56), "attends to texts of width 56"),
    "other weights": (config_of("unet", block_out_channels=[32, 128]), "wrong shape"),
    "no prompts": (prompts(lambda found: {"x": torch.zeros(2)}), "holds no prompts of APT"),
    "prompts of another width": (
        prompts(lambda found: {**found, f"{SITE}.APT.mm_tokens": torch.zeros(7, 40)}),
        "mm_tokens is [7, 40], needs [7, 32]",
    ),
    "a prompt under two names": (
        prompts(lambda found: {**found, f"{SITE.removeprefix('unet.')}.APT.scale": torch.zeros(1)}),
        "holds one tensor under several names: ",
    ),
    "no rows": (
        prompts(lambda found: {**found, f"{SITE}.APT.mm_tokens": torch.zeros(0, 32)}),
        "mm_tokens is [0, 32], needs [1, 32]",
    ),
    "half a site": (
        prompts(lambda found: {name: tensor for name, tensor in found.items() if name != f"{SITE}.APT.mm.0.weight"}),
        "missing (1): down_blocks.0.attentions.0.transformer_blocks.0.attn1.APT.mm.0.weight",
    ),
    "a site that is not there": (
        prompts(lambda found: {**found, "unet.down_blocks.7.attn1.APT.mm_tokens": torch.zeros(7, 32)}),
        "not expected (1): down_blocks.7.attn1.APT.mm_tokens",
    ),
    "trained base weights": (
        prompts(lambda found: {**found, "unet.conv_in.weight": torch.zeros(2)}),
        "holds more than prompts: unet.conv_in.weight",
    ),
    "a checkpoint of ViLT": (of_vilt, "holds more than prompts: pooler.dense.bias"),
    "a size that cannot be halved": (options("image_size = [30, 32]"), "must be multiples of 4 pixels"),
    "a size beyond the longest": (options("image_size = [32, 64]\nmax_image_side = 32"), "max_image_side is 32, less"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(folder: Path, case: str) -> None:
    change, message = WRONG[case]
    change(folder)
    with pytest.raises(InputError) as error:
        load(read_source(folder))
    assert message in str(error.value)


def test_sites_and_sizes_are_those_of_the_file(folder: Path) -> None:
    """Self-attention of one block with other numbers of rows, no prefixes, a torch file and a factor called weight."""
    tokens, rank = torch.randn(9, 32), 2
    state = {"mm_tokens": tokens, "mm.0.weight": torch.randn(rank, 32), "mm.1.weight": torch.randn(32, rank)}
    named = {f"module.{SITE.removeprefix('unet.')}.APT.{leaf}": tensor for leaf, tensor in state.items()}
    named[f"module.{SITE.removeprefix('unet.')}.APT.weight"] = torch.zeros(1)
    torch.save({"state_dict": named}, folder / "prompts.pth")
    toml = folder / "model.toml"
    toml.write_text(toml.read_text().replace(PROMPTS, "prompts.pth"))
    options("image_size = [16, 24]\nmax_image_side = 64")(folder)
    model = load(read_source(folder))
    config = model.config.to_dict()
    assert config["unet"]["prompts"] == {SITE.removeprefix("unet."): 9} and not config["text"]["encoder"]["prompt_rows"]
    assert (config["height"], config["width"]) == (16, 24) and model.components[1].ranges["height"] == (1, 16)
    assert model.memory["table_rows"] == 9 and model.memory["rank"] == rank
    assert "1 self-attentions and 0 cross-attentions" in model.notes[0]


def test_files_of_other_releases_hold_the_same(odd: Path, folder: Path) -> None:
    """Half precision variants, no `text_model.` in weights and prompts, and old names in the decoder's attention."""
    expected = load(read_source(odd))
    base, stem = folder / "base", "diffusion_pytorch_model"
    (base / "unet" / f"{stem}.safetensors").rename(base / "unet" / f"{stem}.fp16.safetensors")
    text = load_file(base / "text_encoder" / "model.safetensors")
    save_file({n.removeprefix("text_model."): t for n, t in text.items()}, base / "text_encoder" / "model.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    decoder = load_file(base / "vae" / f"{stem}.safetensors")
    for new, name in old.items():
        decoder = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): t for key, t in decoder.items()}
    retrain(folder, lambda found: {name.replace("text_model.", ""): tensor for name, tensor in found.items()})
    decoder["encoder.conv_in.weight"] = torch.zeros(16, 3, 3, 3)
    save_file(decoder, base / "vae" / f"{stem}.safetensors")
    found = load(read_source(folder))
    assert found.config == expected.config and found.weights.keys() == expected.weights.keys()
    name = "decoder.mid_block.attentions.0.to_k.weight"
    assert torch.equal(found.weights[name].load(), expected.weights[name].load())
