"""The files of APT-CLIP -> its config, weights and use. The checkpoint's format is this project's own (spec 6)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..bpe_files import bpe_files
from ..checkpoints.lazy import LazyTensor
from ..checkpoints.matching import match, require_pieces
from ..checkpoints.source import Source
from ..clip_bpe import describe_clip_bpe
from ..errors import InputError
from ..images import clip_preprocessing
from ..label_matcher import check_template, factor_of
from ..labels import read_label_set
from . import apt, clip_image, clip_text
from .apt_clip import Config, components, image_weights, sites, text_weights
from .apt_files import memory_of, prompt_rows, read_trained, site_shapes
from .clip_encoder import PROJECTION, EncoderConfig, layer_names
from .clip_files import UNUSED, ClipFiles, read_clip
from .component import shapes_of
from .family import Model, precision_of

_SCALE = "logit_scale"


def load(source: Source) -> Model:
    """Read the files of `source` (keys base, checkpoint, tokenizer, and labels where they are given) into a Model."""
    path, options = source.files["checkpoint"], source.options
    check_template(options["template"])
    clip = read_clip(source.files["base"])
    trained = read_trained(path, f"{clip_image.NAME}.encoder.layers.N.self_attn", "CLIP")
    config = _config(clip, trained, options["max_batch"])
    found = {**clip.weights, **trained}
    where = f"{path} on {source.files['base']}"
    official = match(found, official_shapes(config, found), where, ignored=UNUSED)
    files = bpe_files(source.files["tokenizer"])
    tokenizer = describe_clip_bpe(files)
    require_pieces(tokenizer["pieces"], source.files["tokenizer"], config.text.vocab, source.files["base"])
    _require_end(tokenizer, config, source)
    labels = read_label_set(source.files["labels"]) if "labels" in source.files else None
    scale = float(official[_SCALE].load())
    factor_of(scale, official[_SCALE].origin)
    read = {"base": clip.files, "tokenizer": [*files.values()]}
    return Model(
        family=source.family,
        task=source.task,
        config=config,
        components=components(config),
        weights=folded(official, config),
        unfolded=official,
        files={key: read.get(key, [file]) for key, file in source.files.items()},
        # In OpenAI's half files, embeddings and norms stay float32.
        precision=precision_of(official[f"{clip_image.NAME}.embeddings.patch_embedding.weight"].dtype),
        preprocessing=clip_preprocessing(config.image.image_size),
        tokenizer={**tokenizer, "prefix": "", "maximum": config.text.positions},
        tokenizer_files=files,
        generation=None,
        memory=memory_of(official, {site: p for site, p, _ in sites(config)}),
        options=dict(options),
        labels=labels,
        notes=_notes(clip, trained, labels),
        similarity={"logit_scale": scale, "template": options["template"]},
    )


def _config(clip: ClipFiles, trained: Mapping[str, LazyTensor], max_batch: int) -> Config:
    image = replace(clip.image, encoder=_prompted(clip.image.encoder, clip_image.NAME, trained))
    text = replace(clip.text, encoder=_prompted(clip.text.encoder, clip_text.NAME, trained))
    projection = clip.weights.get("visual_projection.weight")
    dim = projection.shape[0] if projection is not None and projection.shape else 1
    return Config(image, text, dim, max_batch)


def _prompted(encoder: EncoderConfig, tower: str, trained: Mapping[str, LazyTensor]) -> EncoderConfig:
    """The blocks with their p."""
    rows = tuple(prompt_rows(trained, (f"{layer}.self_attn" for layer in layer_names(tower, encoder.layers))))
    return replace(encoder, prompt_rows=rows if any(rows) else ())


def official_shapes(config: Config, found: Mapping[str, LazyTensor]) -> apt.Shapes:
    """Every tensor that the forward pass reads, by Hugging Face's names, and the scale; the rank of a prompt is its
    own, as `found` has it."""
    shapes: apt.Shapes = {
        name: shape
        for name, shape in shapes_of(image_weights(config) | text_weights(config)).items()
        if ".APT." not in name
    }
    for site, rows, width in sites(config):
        shapes |= site_shapes(found, site, PROJECTION, rows, width)
    return shapes | {_SCALE: ()}


def folded(official: Mapping[str, LazyTensor], config: Config) -> dict[str, LazyTensor]:
    """The tensors of the graphs (spec 8.1)."""
    graphs = image_weights(config) | text_weights(config)
    plain = {name: official[name] for name in graphs if name in official}
    prompts = [apt.fold(official, site, PROJECTION) for site, _, _ in sites(config)]
    return plain | {name: tensor for prompt in prompts for name, tensor in prompt.items()}


def _require_end(tokenizer: Mapping[str, Any], config: Config, source: Source) -> None:
    """InputError where texts would be read at another token than their end."""
    end = config.text.vocab - 1 if config.text.end is None else config.text.end
    if tokenizer["sep"] != end:
        raise InputError(
            f"{source.files['tokenizer']} ends texts with the id {tokenizer['sep']}, the model in "
            f"{source.files['base']} reads them at {end}: they do not belong together."
        )


def _notes(clip: ClipFiles, trained: Mapping[str, LazyTensor], labels: list[str] | None) -> list[str]:
    own = [name for name in trained if ".APT." not in name and name in clip.weights]
    notes = [f"{len(own)} tensors of CLIP itself are taken from the checkpoint, not from base"] if own else []
    if labels is None:
        notes.append("no labels were given: every question must bring its own; files.labels names them")
    return notes
