"""The files of MemVP-T5 -> its config, weights and use (spec 2)."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..checkpoints.huggingface_folder import HostFolder
from ..checkpoints.huggingface_t5 import EPS, IGNORED, MAX_DISTANCE, WORDS, canonical, read_huggingface_t5
from ..checkpoints.json_file import check_sizes, number
from ..checkpoints.lazy import LazyTensor
from ..checkpoints.matching import count_numbered, shapes_in
from ..checkpoints.source import Source
from ..errors import InputError
from ..tokenization import describe_t5
from .family import Model
from .memvp_encoder_decoder_files import HostFiles, assembled, read_trained, with_trained
from .memvp_t5 import Config
from .t5 import BUCKETS, TABLES, T5Config, by_distance

# Tables by distance have a row for each.
FARTHEST = 1 << 16
# The tokenizer's file in a Hugging Face folder.
SENTENCEPIECE = "spiece.model"


def load(source: Source) -> Model:
    """Read the files of `source` (keys base, adapter, tokenizer and, for a model that looks at pixels, vision)."""
    trained = read_trained(source)
    folder = read_huggingface_t5(source.files["base"])
    own, host = canonical(trained.adapter.host), _config(folder)
    merged = with_trained(folder, own, trained.adapter, WORDS, IGNORED)
    host = replace(host, vocab=merged[WORDS].shape[0])
    weights = _with_distances(merged, host)
    files = HostFiles(host, weights, IGNORED, folder.generation, folder.files, folder.weights[WORDS].dtype)
    tokenizer = _tokenizer(source.files["tokenizer"])
    return assembled(source, Config, files, trained, describe_t5(tokenizer), {"file": tokenizer})


def _tokenizer(path: Path) -> Path:
    """The sentencepiece model at a path, or in a folder there."""
    if path.is_dir() and not (path / SENTENCEPIECE).is_file():
        raise InputError(f"the tokenizer {path} is a folder that holds no {SENTENCEPIECE}, T5's tokenizer.")
    return path / SENTENCEPIECE if path.is_dir() else path


def _with_distances(found: Mapping[str, LazyTensor], host: T5Config) -> dict[str, LazyTensor]:
    """The tensors with the biases of buckets by distance; each of these is a value of the file's."""
    weights = dict(found)
    for side, buckets in BUCKETS.items():
        change = partial(by_distance, max_distance=host.max_distance, side=side)
        rows = host.max_distance + 1 if side == "decoder" else 2 * host.max_distance + 1
        weights[TABLES[side]] = weights.pop(buckets).mapped((rows, host.heads), change)
    return weights


def _config(folder: HostFolder) -> T5Config:
    """The sizes of tensors, and what the config alone tells. InputError where the two are of different models."""
    found = folder.weights
    shape = shapes_in(found, folder.path, "T5")
    vocab, dim = shape(WORDS, 2)
    encoder, decoder = T5Config.encoder_stem, T5Config.decoder_stem
    layers, decoder_layers = (count_numbered(found, f"{stem}.") for stem in (encoder, decoder))
    ffn_dim, _ = shape(f"{encoder}.0.layer.1.DenseReluDense.wi.weight", 2)
    inner, _ = shape(f"{encoder}.0.layer.0.SelfAttention.q.weight", 2)
    (buckets, heads), (back, others) = (shape(name, 2) for name in BUCKETS.values())
    if (buckets, heads) != (back, others) or buckets % 2:
        raise InputError(
            f"{folder.path}: the tables of distances are {[buckets, heads]} and {[back, others]}; they should be "
            "alike, with an even number of buckets."
        )
    if inner % heads:
        raise InputError(f"{folder.path}: {heads} heads do not divide an inner width of {inner}.")
    sizes = {
        "d_model": dim,
        "num_layers": layers,
        "num_decoder_layers": decoder_layers,
        "d_ff": ffn_dim,
        "num_heads": heads,
        "d_kv": inner // heads,
        "relative_attention_num_buckets": buckets,
        "vocab_size": vocab,
    }
    check_sizes(folder.config, sizes, folder.path)
    farthest = folder.size("relative_attention_max_distance", MAX_DISTANCE)
    if buckets < 4 or not buckets // 2 < farthest <= FARTHEST:
        raise InputError(
            f"{folder.path}: {buckets} buckets do not reach a relative_attention_max_distance of {farthest} as T5's do."
        )
    eps = number(folder.config, "layer_norm_epsilon", folder.path, EPS)
    return T5Config(dim, layers, decoder_layers, heads, inner // heads, ffn_dim, vocab, farthest, eps)
