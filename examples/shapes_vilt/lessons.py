"""Training batches: scenes as the exporter would prepare them, a question about each, and what patches show."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...exporter.encoder_tokenizer import EncoderTokenizer
from ...exporter.images import pixelbert_preprocessing, preprocess
from ...exporter.models import apt_vilt
from ..shapes.lessons import IGNORED, SEED
from ..shapes.model import pad_right
from ..shapes.patches import patch_of, shown_in
from ..shapes.questions import TYPES, questions
from ..shapes.scenes import Scene, draw, make_scene
from .model import LABELS, SHORTER_SIDE


@dataclass(frozen=True)
class Batch:
    """B scenes and one question about each: what the model takes; classes [B] of the answers; types [B] of the
    questions, indices into TYPES; patches [3,B,v], see `shown_in`; asked [B,v], 1 where a patch holds a shape that the
    question is about, 0 where it holds another, else IGNORED."""

    inputs: dict[str, Tensor]
    classes: Tensor
    types: Tensor
    patches: Tensor
    asked: Tensor


def make_batch(config: apt_vilt.Config, tokenizer: EncoderTokenizer, first: int, count: int) -> Batch:
    """Training scenes first .. first+count-1, each with one of the questions it was laid out for."""
    spec = pixelbert_preprocessing(config.height, config.width, SHORTER_SIDE, config.patch)
    pixels, patches, asked, rows, classes, types = [], [], [], [], [], []
    for index in range(first, first + count):
        scene, stream = make_scene("train", SEED, index), random.Random(f"asked/{SEED}/{index}")
        number, question = stream.choice(list(enumerate(questions(scene, stream))))
        pixels.append(preprocess(draw(scene), spec))
        patches.append(shown_in(scene, config.rows, config.columns))
        asked.append(_asked(scene, number, config))
        rows.append(tokenizer.encode(question.text))
        classes.append(LABELS.index(question.answer))
        types.append(TYPES.index(question.type))
    ids, mask = pad_right(rows)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.from_numpy(np.stack(pixels)),
        "pixel_mask": torch.ones(count, config.height, config.width, dtype=torch.int64),
    }
    return Batch(
        inputs=inputs,
        classes=torch.tensor(classes),
        types=torch.tensor(types),
        patches=torch.from_numpy(np.stack(patches, 1)),
        asked=torch.from_numpy(np.stack(asked)),
    )


def _asked(scene: Scene, number: int, config: apt_vilt.Config) -> np.ndarray:
    """`Batch.asked` of one scene and its question of this number, in the order of `questions`."""
    asked = np.full(config.rows * config.columns, IGNORED)
    for shape in scene.shapes:
        of_kind, of_colour = shape.kind == scene.counted_kind, shape.colour == scene.counted_colour
        unique = shape is scene.unique
        asked[patch_of(shape, config.rows, config.columns)] = (unique, of_kind, of_colour, unique)[number]
    return asked
