"""Where the official files of the small model lie, and the names of Meta's LLaMA tensors in them."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"

TOKENIZER = "weights/tokenizer.model"
LLAMA = "weights/llama"
VISION = "ViT-shapes.pt"
ADAPTER = "checkpoint-19.pth"

_META = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def meta_name(name: str) -> str | None:
    """Meta's name of a LLaMA tensor from Hugging Face's (spec 1.9); None where it is no LLaMA tensor."""
    stem, _, leaf = name.rpartition(".")
    layer, part = "", stem
    if stem.startswith("model.layers."):
        _, _, index, part = stem.split(".", 3)
        layer = f"layers.{index}."
    return f"{layer}{_META[part]}.{leaf}" if part in _META else None


def is_rotated(name: str) -> bool:
    """Whether a tensor is wq or wk, whose rows Meta orders as pairs (2i, 2i + 1), Hugging Face as (i, i + hd/2)."""
    return name.endswith(("q_proj.weight", "k_proj.weight"))
