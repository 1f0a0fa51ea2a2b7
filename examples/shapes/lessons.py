"""Training batches: drawn scenes, tokenized questions with their answers, and what each patch shows."""

import random
from dataclasses import dataclass

import numpy as np
import sentencepiece
import torch
from PIL import Image
from torch import Tensor

from ...exporter.models import memvp_llama
from .model import BOS, EOS, pad_right
from .patches import shown_in
from .questions import questions
from .scenes import draw, make_scene

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)
SEED = 0
QUESTIONS = 4  # of each scene
IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """B scenes with QUESTIONS rows each.

    pixels [B,3,S,S] float32; ids and mask [B*QUESTIONS,T]; where and labels [B*QUESTIONS,K]: the columns that predict
    the answer and its tokens, IGNORED past the end; patches [3,B,v]: see `shown_in`.
    """

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    where: Tensor
    labels: Tensor
    patches: Tensor


def preprocess(image: Image.Image, size: int) -> np.ndarray:
    """The paper's preprocessing (spec 1.6) in float32 steps, as its training computes it; float32 [3,size,size]."""
    small = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.transpose((np.asarray(small, np.float32) / 255 - MEAN) / STD, (2, 0, 1))


def make_batch(
    config: memvp_llama.Config, tokenizer: sentencepiece.SentencePieceProcessor, first: int, count: int
) -> Batch:
    """Training scenes first .. first+count-1 and every question each was laid out for."""
    pixels, patches, rows, asked, answers = [], [], [], [], []
    for index in range(first, first + count):
        scene = make_scene("train", SEED, index)
        pixels.append(preprocess(draw(scene), config.tower.image_size))
        patches.append(shown_in(scene, config.tower.grid, config.tower.grid))
        for question in questions(scene, random.Random(f"wording/{SEED}/{index}")):
            prompt = [BOS, *tokenizer.encode(question.text)]
            answer = [*tokenizer.encode(question.answer), EOS]
            rows.append(prompt + answer[:-1])
            asked.append(len(prompt))
            answers.append(answer)
    ids, mask = pad_right(rows)
    longest = max(map(len, answers))
    where = torch.tensor(asked)[:, None] - 1 + torch.arange(longest)
    labels = torch.tensor([answer + [IGNORED] * (longest - len(answer)) for answer in answers])
    return Batch(
        pixels=torch.from_numpy(np.stack(pixels)),
        ids=ids,
        mask=mask,
        where=where.clamp(max=ids.shape[1] - 1),
        labels=labels,
        patches=torch.from_numpy(np.stack(patches, 1)),
    )
