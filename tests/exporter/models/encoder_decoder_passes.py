"""The components of an encoder-decoder run one after the other, and questions to run them on."""

from typing import NamedTuple

import torch
from memvp_export.exporter.cache import past_of
from memvp_export.exporter.models import memvp_encoder_decoder as shared
from torch import Tensor

STEPS = (2, 1, 2)
MEMORY = shared.MemoryConfig(
    rows=5, width=7, tower=None, projector_dim=6, table_rows=8, scale=1.0, visual_scale=0.01, places="both"
)


class Questions(NamedTuple):
    """ids and a mask [B,T] with padding on both sides, ids that are written [B,sum(STEPS)], and a visual memory that
    the second row lacks."""

    ids: Tensor
    mask: Tensor
    written: Tensor
    visual: Tensor


def questions(config: shared.EncoderDecoderConfig) -> Questions:
    generator, rows = torch.Generator().manual_seed(5), config.memory.rows
    ids, written = (torch.randint(0, config.host.vocab, (3, n), generator=generator) for n in (6, sum(STEPS)))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    mask[2, :2] = 0
    visual = 0.5 * torch.randn(3, rows, config.host.dim, generator=generator)
    visual[1] = 0
    return Questions(ids, mask, written, visual)


def run(config: shared.EncoderDecoderConfig, weights: dict[str, Tensor], asked: Questions) -> tuple[Tensor, Tensor]:
    """Last hidden states, and the logits of all that is written, in STEPS columns a call."""
    _, encoder, decoder = shared.components(config)
    visual = {"visual_memory": asked.visual}
    ports = {"input_ids": asked.ids, "attention_mask": asked.mask, **visual}
    last, *crossing = encoder.forward(weights, {port.name: ports[port.name] for port in encoder.inputs})
    ports = {"encoder_attention_mask": asked.mask, **visual}
    ports |= {past_of(port.name): made for port, made in zip(encoder.outputs[1:], crossing, strict=True)}
    dtype = crossing[0].dtype
    ports |= {
        past_of(port.name): torch.zeros(len(asked.ids), config.host.heads, 0, config.host.head_dim, dtype=dtype)
        for port in decoder.outputs[1:]
    }
    logits = []
    for part in asked.written.split(STEPS, 1):
        ports["input_ids"] = part
        found, *present = decoder.forward(weights, {port.name: ports[port.name] for port in decoder.inputs})
        ports |= {past_of(port.name): grown for port, grown in zip(decoder.outputs[1:], present, strict=True)}
        logits.append(found)
    return last, torch.cat(logits, 1)
