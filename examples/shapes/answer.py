"""Answers of the small model by the reference forward passes: greedy, batched, without a cache."""

from collections.abc import Mapping, Sequence

import sentencepiece
import torch
from torch import Tensor

from ...exporter.models import memvp_llama
from .model import BOS, EOS, logits_at, pad_right

MAX_NEW_TOKENS = 8
BATCH = 250


@torch.inference_mode()
def encode_images(
    weights: Mapping[str, Tensor], config: memvp_llama.Config, pixels: Tensor, with_image: bool = True
) -> Tensor:
    """Visual memory [N,v,d] of preprocessed pixels [N,3,S,S]; without the image: zero pixels and indicator 0."""
    indicator = torch.full((len(pixels),), float(with_image))
    batches = zip(pixels.split(BATCH), indicator.split(BATCH), strict=True)
    return torch.cat([memvp_llama.vision(weights, config, part * with_image, i) for part, i in batches])


@torch.inference_mode()
def answer(
    weights: Mapping[str, Tensor],
    config: memvp_llama.Config,
    tokenizer: sentencepiece.SentencePieceProcessor,
    texts: Sequence[str],
    memory: Tensor,
) -> list[str]:
    """The answers to N texts over memory [N,v,d]: the most likely token until EOS or MAX_NEW_TOKENS."""
    found: list[str] = []
    for first in range(0, len(texts), BATCH):
        part = texts[first : first + BATCH]
        rows = [[BOS, *tokenizer.encode(text)] for text in part]
        news = _extend(weights, config, rows, memory[first : first + BATCH])
        found += [tokenizer.decode(new) for new in news]
    return found


def _extend(
    weights: Mapping[str, Tensor], config: memvp_llama.Config, rows: list[list[int]], memory: Tensor
) -> list[list[int]]:
    news: list[list[int]] = [[] for _ in rows]
    running = list(range(len(rows)))
    for _ in range(MAX_NEW_TOKENS):
        whole = [rows[i] + news[i] for i in running]
        ids, mask = pad_right(whole)
        where = torch.tensor([[len(row) - 1] for row in whole])
        tokens = logits_at(weights, config, ids, mask, memory[running], where)[:, 0].argmax(-1).tolist()
        for i, token in zip(running, tokens, strict=True):
            if token != EOS:
                news[i].append(token)
        running = [i for i, token in zip(running, tokens, strict=True) if token != EOS]
        if not running:
            break
    return news
