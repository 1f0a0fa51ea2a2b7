"""Where the official files of the small model lie, and which of its tensors are LLaMA's."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"

TOKENIZER = "weights/tokenizer.model"
LLAMA = "weights/llama"
VISION = "ViT-shapes.pt"
ADAPTER = "checkpoint-19.pth"


def is_llama(name: str) -> bool:
    """Whether a tensor is one of LLaMA's, by its Hugging Face name."""
    return name.startswith(("model.", "lm_head."))


def is_rotated(name: str) -> bool:
    """Whether a tensor is wq or wk, whose rows Meta orders as pairs (2i, 2i + 1), Hugging Face as (i, i + hd/2)."""
    return name.endswith(("q_proj.weight", "k_proj.weight"))
