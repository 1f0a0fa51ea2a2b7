"""Writes the small model as the official files: Meta's LLaMA folder, OpenAI's CLIP file, MemVP's adapter file."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

from ...exporter.checkpoints.llama_layout import meta_name
from ...exporter.models import memvp_llama
from .files import ADAPTER, LLAMA, TOKENIZER, VISION, is_llama, is_rotated
from .initial import LAMBDA_SCALED
from .model import BOS, EOS, MULTIPLE_OF
from .questions import corpus

PIECES = 400  # 256 bytes, 3 controls, letters and merges: common words stay whole, rare ones are cut

_MODEL_TOML = f"""\
family = "memvp-llama"
task   = "vqa"
[files]
base      = "{LLAMA}"
vision    = "{VISION}"
adapter   = "{ADAPTER}"
tokenizer = "{TOKENIZER}"
[options]
max_new_tokens = 8
"""


def train_tokenizer(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """Train a BPE model on the corpus, with the ids and the options of LLaMA's, and write it."""
    path = folder / TOKENIZER
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus()),
            model_writer=file,
            model_type="bpe",
            vocab_size=PIECES,
            unk_id=0,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=-1,
            byte_fallback=True,
            split_digits=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            num_threads=1,
            minloglevel=2,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def save_model(folder: Path, config: memvp_llama.Config, weights: Mapping[str, Tensor]) -> None:
    """Write everything but the tokenizer. The weights of LAMBDA_SCALED come multiplied by lambda."""
    weights = {n: w / config.visual_scale if n in LAMBDA_SCALED else w for n, w in weights.items()}
    (folder / LLAMA).mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(_MODEL_TOML)
    (folder / LLAMA / "params.json").write_text(json.dumps(_params(config)) + "\n")
    torch.save(_llama(config, weights), folder / LLAMA / "consolidated.00.pth")
    torch.save(_clip(config, weights), folder / VISION)
    torch.save(_adapter(config, weights), folder / ADAPTER)


def _params(config: memvp_llama.Config) -> dict[str, float]:
    return {
        "dim": config.dim,
        "multiple_of": MULTIPLE_OF,
        "n_heads": config.heads,
        "n_layers": config.layers,
        "norm_eps": config.norm_eps,
        "vocab_size": -1,
    }


def _llama(config: memvp_llama.Config, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = {}
    for name, weight in weights.items():
        if is_llama(name):
            ordered = _pairs_from_halves(weight, config.heads) if is_rotated(name) else weight
            tensors[meta_name(name)] = ordered.half().contiguous()
    return tensors


def _pairs_from_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k from Hugging Face's order to Meta's; [d,d] (spec 1.9)."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _clip(config: memvp_llama.Config, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tower in float16, norms and embeddings in float32; with the last block and the output projection that an
    OpenAI file has and the forward pass skips, at random."""
    generator = torch.Generator().manual_seed(2)
    tensors = {name: weight for name, weight in weights.items() if name.startswith("visual.")}
    for name in [n for n in tensors if "resblocks.0." in n]:
        like = tensors[name]
        last = name.replace("resblocks.0.", f"resblocks.{config.tower.blocks - 1}.")
        tensors[last] = like.std() * torch.randn(like.shape, generator=generator)
    tensors["visual.proj"] = 0.1 * torch.randn(config.tower.width, config.tower.width // 2, generator=generator)
    return {n: w.float() if ".ln_" in n or n.endswith("_embedding") else w.half() for n, w in tensors.items()}


def _adapter(config: memvp_llama.Config, weights: Mapping[str, Tensor]) -> dict[str, object]:
    """MemVP's checkpoint (spec 1.8) with all that the forward pass never reads: the modality embedding, the adapter of
    the last block, and what resuming needs."""
    generator = torch.Generator().manual_seed(3)
    tensors = {name: weight for name, weight in weights.items() if "adapter" in name}
    for table in ("adapter_emb1", "adapter_emb2"):
        tensors[table] = tensors[table][None]
    tensors["adapter_modality_embedding.weight"] = 0.02 * torch.randn(2, config.dim, generator=generator)
    last = f"backbone.visual.transformer.resblocks.{config.tower.blocks - 1}.adapter_mlp"
    width, rank = config.tower.width, config.tower.adapter_dim
    tensors[f"{last}.fc1.weight"] = 0.1 * torch.randn(rank, width, generator=generator)
    tensors[f"{last}.fc2.weight"] = torch.zeros(width, rank)
    return {
        "model": {f"module.{name}": weight.float().clone() for name, weight in tensors.items()},
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 19,
        "scaler": {},
        "args": argparse.Namespace(emb=config.memory_rows, adapter_scale=config.adapter_scale, epochs=20),
    }
