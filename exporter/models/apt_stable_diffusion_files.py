"""A diffusers folder and trained prompts -> the config, weights and use of APT on Stable Diffusion.

There is no official code: the checkpoint's format is this project's own (docs/families/apt-stable-diffusion.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bpe_files import bpe_files
from ..checkpoints.diffusers_folder import DiffusersFolder, Part, read_diffusers
from ..checkpoints.json_file import integer, read_object
from ..checkpoints.lazy import LazyTensor
from ..checkpoints.matching import match, require_pieces, some
from ..checkpoints.source import Source
from ..clip_bpe import END, describe_clip_bpe
from ..errors import InputError
from ..scheduler import read_scheduler
from . import apt, clip_encoder, clip_text, unet
from .apt_files import memory_of, prompt_rows, read_trained, site_shapes
from .apt_stable_diffusion import Config, components
from .clip_encoder import layer_names
from .clip_files import text_config
from .component import shapes_of
from .diffusion_configs import unet_config, vae_config
from .family import Model, precision_of
from .unet import UNetConfig, plain_weights
from .vae_decoder import vae_weights

_SITE = "down_blocks.N.attentions.N.transformer_blocks.N.attn2"
_TEXT = f"{clip_text.NAME}."
_LONGEST_SIDE = 1 << 13
_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load(source: Source) -> Model:
    """Read the files of `source` (keys base and checkpoint) into a Model."""
    folder, path = read_diffusers(source.files["base"]), source.files["checkpoint"]
    trained = _trained(path)
    text = _text_weights(folder.text_encoder)
    config = _config(folder, text, trained, source.options)
    found = {**text, **folder.unet.weights, **_decoder_weights(folder.vae), **trained}
    official = match(found, official_shapes(config, found), f"{path} on {source.files['base']}", ignored=_ignored(text))
    tokenizer_files, padding = bpe_files(folder.tokenizer), _padding_files(folder.tokenizer)
    tokenizer = describe_clip_bpe(tokenizer_files, _pad_token(padding))
    require_pieces(tokenizer["pieces"], folder.tokenizer, config.text.vocab, source.files["base"], fewer=True)
    read_scheduler(folder.scheduler)
    parts = (folder.text_encoder, folder.unet, folder.vae)
    files = [folder.index, *(file for part in parts for file in part.files), folder.scheduler]
    return Model(
        family=source.family,
        task=source.task,
        config=config,
        components=components(config),
        weights=folded(official, config),
        unfolded=official,
        files={"base": [*files, *tokenizer_files.values(), *padding], "checkpoint": [path]},
        precision=precision_of(official["conv_in.weight"].dtype),
        preprocessing={},
        tokenizer={**tokenizer, "prefix": "", "maximum": config.text.positions},
        tokenizer_files=tokenizer_files,
        generation=None,
        memory=memory_of(official, {site: p for site, _, p, _ in _sites(config)}),
        options=dict(source.options),
        notes=_notes(folder, config),
        scheduler=folder.scheduler,
    )


def _trained(path: Path) -> dict[str, LazyTensor]:
    """The prompts under the names of the modules, without `unet.` and `text_encoder.` before them, and with the
    `text_model.` that newer releases of transformers leave out."""
    found = read_trained(path, _SITE, "Stable Diffusion")
    if others := [name for name in found if ".APT." not in name]:
        raise InputError(
            f"{path} holds more than prompts: {some(others)}. Base weights are frozen and come from base: save only "
            "the tensors with '.APT.' in their names."
        )
    names = {name: _module_name(name) for name in found}
    if len({*names.values()}) < len(names):
        twice = [name for name in names if [*names.values()].count(names[name]) > 1]
        raise InputError(f"{path} holds one tensor under several names: {some(twice)}. Save the trained one alone.")
    return {names[name]: tensor for name, tensor in found.items()}


def _module_name(name: str) -> str:
    name = name.removeprefix("unet.").removeprefix("text_encoder.")
    return f"{_TEXT}{name}" if name.startswith("encoder.") else name


def _text_weights(part: Part) -> dict[str, LazyTensor]:
    """Newer releases of transformers leave `text_model.` out."""
    return {name if name.startswith(_TEXT) else _TEXT + name: tensor for name, tensor in part.weights.items()}


def _decoder_weights(part: Part) -> dict[str, LazyTensor]:
    """What the decoder reads, its attention under the names that diffusers gives it now."""
    found = {}
    for name, tensor in part.weights.items():
        *module, last, kind = ["", *name.split(".")]
        if name.startswith("decoder.mid_block.attentions.") and last in _VAE_ATTENTION:
            name = ".".join([*module[1:], _VAE_ATTENTION[last], kind])
        if name.startswith(("decoder.", "post_quant_conv.")):
            found[name] = tensor
    return found


def _ignored(text: Mapping[str, LazyTensor]) -> list[str]:
    """A text encoder may hold its positions' numbers and a projection."""
    return [name for name in text if name.endswith(".position_ids") or name == f"{_TEXT}text_projection.weight"]


def _config(
    folder: DiffusersFolder,
    text: Mapping[str, LazyTensor],
    trained: Mapping[str, LazyTensor],
    options: Mapping[str, Any],
) -> Config:
    tower = text_config(folder.text_encoder.config, text, folder.text_encoder.path)
    sites = [f"{layer}.self_attn" for layer in layer_names(clip_text.NAME, tower.encoder.layers)]
    rows = tuple(prompt_rows(trained, sites))
    tower = replace(tower, encoder=replace(tower.encoder, prompt_rows=rows if any(rows) else ()))
    sizes = unet_config(folder.unet.config, folder.unet.path, {})
    names = [site for site, _, _ in unet.sites(sizes)]
    prompts = {site: p for site, p in zip(names, prompt_rows(trained, names), strict=True) if p}
    vae = vae_config(folder.vae.config, folder.vae.path)
    _require_fitting(folder, sizes, tower.encoder.width, vae.latents)
    return _sized(folder, Config(tower, replace(sizes, prompts=prompts), vae, 0, 0, 0, options["max_batch"]), options)


def _sized(folder: DiffusersFolder, config: Config, options: Mapping[str, Any]) -> Config:
    """With the sizes of images, which are those that the U-Net was trained for unless an option says otherwise."""
    unit, trained = config.unit, integer(folder.unet.config, "sample_size", folder.unet.path, 64) * config.vae.factor
    height, width = (side or -(-trained // unit) * unit for side in options["image_size"])
    longest = options["max_image_side"] or max(height, width)
    if height % unit or width % unit or longest % unit:
        raise InputError(
            f"image_size and max_image_side must be multiples of {unit} pixels, to which this model halves an image; "
            f"they are {height} x {width} and {longest}."
        )
    if longest < max(height, width):
        raise InputError(f"max_image_side is {longest}, less than the {max(height, width)} pixels of image_size.")
    if longest > _LONGEST_SIDE:
        raise InputError(
            f"{folder.unet.path} has a sample_size of {trained // config.vae.factor}: images of {longest} pixels are "
            f"more than the {_LONGEST_SIDE} that this family takes."
        )
    return replace(config, height=height, width=width, longest_side=longest)


def _require_fitting(folder: DiffusersFolder, sizes: UNetConfig, text_width: int, latents: int) -> None:
    if sizes.context != text_width:
        raise InputError(
            f"{folder.unet.path} attends to texts of width {sizes.context}, the text encoder beside it gives "
            f"{text_width}: they are of different models."
        )
    if sizes.latents != latents:
        raise InputError(
            f"{folder.unet.path} takes {sizes.latents} channels, the autoencoder beside it has {latents}: a U-Net for "
            "inpainting or other conditions is not a text-to-image model of this family."
        )


def official_shapes(config: Config, found: Mapping[str, LazyTensor]) -> apt.Shapes:
    """Every tensor that the forward passes read, by its name in diffusers and transformers; the rank of a prompt is its
    own, as `found` has it."""
    text = {n: s for n, s in shapes_of(clip_text.text_weights(config.text)).items() if ".APT." not in n}
    shapes = text | shapes_of(plain_weights(config.unet)) | shapes_of(vae_weights(config.vae))
    for site, projection, rows, width in _sites(config):
        shapes |= site_shapes(found, site, projection, rows, width)
    return shapes


def _sites(config: Config) -> list[tuple[str, str, int, int]]:
    """Every site with prompts: its name, its projection, p and d."""
    tower, prompts = config.text.encoder, config.unet.prompts
    found = [
        (site, clip_encoder.PROJECTION, rows, tower.width) for site, rows in clip_encoder.sites(clip_text.NAME, tower)
    ]
    widths = {site: width for site, width, _ in unet.sites(config.unet)}
    return found + [(site, unet.PROJECTION, rows, widths[site]) for site, rows in prompts.items()]


def folded(official: Mapping[str, LazyTensor], config: Config) -> dict[str, LazyTensor]:
    """The tensors of the graphs (spec 8.1)."""
    weights = {name: tensor for name, tensor in official.items() if ".APT." not in name}
    for site, projection, _, _ in _sites(config):
        weights |= apt.fold(official, site, projection)
    return weights


def _padding_files(folder: Path) -> list[Path]:
    """The files that may say what texts are padded with."""
    named = (folder / name for name in ("special_tokens_map.json", "tokenizer_config.json"))
    return [path for path in named if path.is_file()]


def _pad_token(files: Iterable[Path]) -> str:
    """What texts are padded with: an end of text in 1.x, "!" in 2.x."""
    for path in files:
        token = read_object(path).get("pad_token")
        if token is not None:
            return str(token.get("content")) if isinstance(token, dict) else str(token)
    return END


def _notes(folder: DiffusersFolder, config: Config) -> list[str]:
    places = {kind: sum(site.endswith(kind) for site in config.unet.prompts) for kind in ("attn1", "attn2")}
    text = sum(map(bool, config.text.encoder.prompt_rows))
    notes = [
        f"prompts at {places['attn1']} self-attentions and {places['attn2']} cross-attentions of the U-Net, and at "
        f"{text} of the text encoder"
    ]
    if folder.unused:
        notes.append(f"not exported: {', '.join(folder.unused)}")
    return notes
