"""The files of MemVP-BART -> its config, weights and use (spec 2)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..bpe_files import bpe_files
from ..byte_bpe import describe_byte_bpe
from ..checkpoints.huggingface_bart import IGNORED, BartFolder, canonical, read_huggingface_bart, size
from ..checkpoints.json_file import check_sizes
from ..checkpoints.lazy import LazyTensor, from_array
from ..checkpoints.matching import count_numbered
from ..checkpoints.source import Source
from ..errors import InputError
from .apt_files import shapes_in
from .bart import LOGITS_BIAS, OFFSET, WORDS, BartConfig
from .family import Model
from .memory import ACTIVATIONS
from .memvp_bart import Config
from .memvp_encoder_decoder_files import HostFiles, assembled, read_trained


def load(source: Source) -> Model:
    """Read the files of `source` (keys base, adapter, tokenizer and, for a model that looks at pixels, vision)."""
    trained = read_trained(source)
    folder = read_huggingface_bart(source.files["base"])
    own = _config(folder, folder.weights)
    # A state dict of the whole model has the host's tensors too: with more words, where some were added.
    merged = folder.weights | canonical(trained.adapter.host)
    host = _config(folder, merged, own.vocab)
    merged.setdefault(LOGITS_BIAS, from_array(np.zeros((1, host.vocab), np.float32), "BART without a bias of logits"))
    files = HostFiles(host, merged, IGNORED, folder.generation, folder.files, folder.weights[WORDS].dtype)
    tokenizer = bpe_files(source.files["tokenizer"])
    model = assembled(source, Config, files, trained, _tokenizer(tokenizer), tokenizer)
    config = model.config
    assert isinstance(config, Config)
    if (longest := max(config.text_length, config.max_sequence)) > host.positions:
        raise InputError(
            f"text_length is {config.text_length} and max_sequence {config.max_sequence}; {folder.path} has "
            f"{host.positions} positions, too few for {longest}."
        )
    return model


def _tokenizer(files: Mapping[str, Any]) -> dict[str, Any]:
    found = describe_byte_bpe(files)
    return {**found, "eos": found["sep"]}


def _config(folder: BartFolder, found: Mapping[str, LazyTensor], claimed_vocab: int | None = None) -> BartConfig:
    """The sizes of tensors, and what the config alone tells. InputError where the two are of different models."""
    shape = shapes_in(found, folder.path, "BART")
    vocab, dim = shape(WORDS, 2)
    encoder, decoder = BartConfig.encoder_stem, BartConfig.decoder_stem
    sizes = {
        "encoder_layers": count_numbered(found, f"{encoder}."),
        "decoder_layers": count_numbered(found, f"{decoder}."),
        "encoder_ffn_dim": shape(f"{encoder}.0.fc1.weight", 2)[0],
        "decoder_ffn_dim": shape(f"{decoder}.0.fc1.weight", 2)[0],
    }
    positions = shape("model.encoder.embed_positions.weight", 2)[0] - OFFSET
    claimed = {"d_model": dim, "max_position_embeddings": positions, "vocab_size": claimed_vocab or vocab, **sizes}
    check_sizes(folder.config, claimed, folder.path)
    heads = [size(folder, f"{side}_attention_heads") for side in ("encoder", "decoder")]
    if uneven := [count for count in heads if dim % count]:
        raise InputError(f"{folder.path}: {uneven[0]} heads do not divide a width of {dim}.")
    activation = folder.config.get("activation_function", "gelu")
    if activation not in ACTIVATIONS:
        raise InputError(
            f"{folder.path}: activation_function is {activation!r}; this version knows {', '.join(ACTIVATIONS)}."
        )
    scale = dim**0.5 if folder.config.get("scale_embedding") else 1.0
    return BartConfig(
        dim=dim,
        encoder_heads=heads[0],
        heads=heads[1],
        vocab=vocab,
        positions=positions,
        word_scale=scale,
        activation=activation,
        **sizes,
    )
