"""Writes the small APT-ViLT as the official files: Lightning's checkpoint, BERT's vocabulary, the answers' names."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...exporter.encoder_tokenizer import EncoderTokenizer
from ...exporter.models import apt_vilt
from ...exporter.wordpiece import describe_wordpiece
from ..random_apt import save_lightning
from ..random_vilt import SPECIAL
from ..shapes.questions import corpus
from .model import LABELS, SHORTER_SIDE

MODEL = Path(__file__).parent / "model"
CHECKPOINT, VOCABULARY, ANSWERS = "epoch=0-step=0.ckpt", "vocab.txt", "answers.json"


def write_vocabulary(folder: Path) -> Path:
    """BERT's special tokens, then every word and sign of the corpus as one piece, sorted; returns the file."""
    words = {word for text in corpus() for word in re.findall(r"\w+|[^\w\s]", text)}
    path = folder / VOCABULARY
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*SPECIAL, *sorted(words)]) + "\n")
    return path


def open_tokenizer(path: Path, maximum: int) -> EncoderTokenizer:
    """The tokenizer as the exported bundle has it, without a prefix."""
    entry = {**describe_wordpiece(path), "file": path.name, "prefix": "", "maximum": maximum}
    return EncoderTokenizer(path.parent, entry)


def save_model(folder: Path, config: apt_vilt.Config, weights: Mapping[str, Tensor]) -> None:
    """Write everything but the vocabulary; float32, as the official training leaves it."""
    state = {name: weight.float().clone() for name, weight in weights.items()}
    state["text_embeddings.position_ids"] = torch.arange(config.text_length)[None]
    save_lightning(folder / CHECKPOINT, state, {"num_heads": config.heads, "image_size": SHORTER_SIDE})
    (folder / ANSWERS).write_text(json.dumps({"id2label": dict(enumerate(LABELS))}) + "\n")
    (folder / "model.toml").write_text(
        f'family = "apt-vilt"\ntask   = "vqa"\n[files]\ncheckpoint = "{CHECKPOINT}"\ntokenizer  = "{VOCABULARY}"\n'
        f'labels     = "{ANSWERS}"\n[options]\nimage_size  = [{config.height}, {config.width}]\ntext_prefix = ""\n'
        f"max_batch   = {config.max_batch}\n"
    )
