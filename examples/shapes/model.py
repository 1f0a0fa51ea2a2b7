"""The sizes of the small model, and the reference decoder over whole rows."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...exporter.models import memvp_llama
from ...exporter.models.clip_tower import TowerConfig
from ..random_source import meta_ffn_dim

PAD, BOS, EOS = 0, 1, 2
MULTIPLE_OF = 32


def make_config(vocab: int) -> memvp_llama.Config:
    """A tower of 64 patches of 8 pixels, 80 memory rows, a LLaMA of four layers; the paper's constants."""
    dim = 96
    return memvp_llama.Config(
        tower=TowerConfig(width=64, blocks=4, patch=8, grid=8, adapter_dim=8, adapter_scale=0.1),
        dim=dim,
        layers=4,
        heads=4,
        ffn_dim=meta_ffn_dim(dim, MULTIPLE_OF),
        vocab=vocab,
        norm_eps=1e-6,
        rope_theta=10000.0,
        projector_dim=128,
        memory_rows=80,
        adapter_scale=0.1,
        visual_scale=0.01,
        max_sequence=512,
        max_batch=64,
    )


def pad_right(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids of different lengths -> ids and mask [B,T] int64, padded on the right with PAD."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def logits_at(
    weights: Mapping[str, Tensor], config: memvp_llama.Config, ids: Tensor, mask: Tensor, visual: Tensor, where: Tensor
) -> Tensor:
    """Logits [B,K,V] at columns `where` [B,K] of whole rows: ids and mask [B,T], visual memory [B,v,d], no past."""
    batch, length = ids.shape
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": torch.arange(length).expand(batch, length),
        "logits_positions": where,
        "visual_memory": visual,
    }
    for i in range(config.layers):
        for kind in ("key", "value"):
            inputs[f"past_key_values.{i}.{kind}"] = visual.new_zeros(batch, config.heads, 0, config.head_dim)
    return memvp_llama.decoder(weights, config, inputs)[0]
