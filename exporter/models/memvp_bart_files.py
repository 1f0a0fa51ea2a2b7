"""The files of MemVP-BART -> its config, weights and use (spec 2)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..bpe_files import bpe_files
from ..byte_bpe import describe_byte_bpe
from ..checkpoints.huggingface_bart import IGNORED, WORDS, canonical, read_huggingface_bart
from ..checkpoints.huggingface_folder import HostFolder
from ..checkpoints.json_file import check_sizes, flag, one_of
from ..checkpoints.lazy import from_array
from ..checkpoints.matching import count_numbered, shapes_in
from ..checkpoints.source import Source
from ..errors import InputError
from .bart import LOGITS_BIAS, OFFSET, BartConfig
from .family import Model
from .memory import ACTIVATIONS
from .memvp_bart import Config
from .memvp_encoder_decoder_files import HostFiles, assembled, read_trained, with_trained


def load(source: Source) -> Model:
    """Read the files of `source` (keys base, adapter, tokenizer and, for a model that looks at pixels, vision)."""
    trained = read_trained(source)
    folder = read_huggingface_bart(source.files["base"])
    own, host = canonical(trained.adapter.host), _config(folder)
    merged = with_trained(folder, own, trained.adapter, WORDS, (*IGNORED, LOGITS_BIAS))
    host = replace(host, vocab=merged[WORDS].shape[0])
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
    found = describe_byte_bpe(files, "BART")
    return {**found, "eos": found["sep"]}


def _config(folder: HostFolder) -> BartConfig:
    """The sizes of tensors, and what the config alone tells. InputError where the two are of different models."""
    found = folder.weights
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
    claimed = {"d_model": dim, "max_position_embeddings": positions, "vocab_size": vocab, **sizes}
    check_sizes(folder.config, claimed, folder.path)
    heads = [folder.size(f"{side}_attention_heads") for side in ("encoder", "decoder")]
    if uneven := [count for count in heads if dim % count]:
        raise InputError(f"{folder.path}: {uneven[0]} heads do not divide a width of {dim}.")
    scale = dim**0.5 if flag(folder.config, "scale_embedding", folder.path) else 1.0
    return BartConfig(
        dim=dim,
        encoder_heads=heads[0],
        heads=heads[1],
        vocab=vocab,
        positions=positions,
        word_scale=scale,
        activation=one_of(folder.config, "activation_function", ACTIVATIONS, folder.path, "gelu"),
        **sizes,
    )
