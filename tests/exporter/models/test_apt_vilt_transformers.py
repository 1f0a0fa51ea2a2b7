"""The ViLT under the prompts against transformers' ViltModel on the same weights, padded batches included."""

import pytest
import torch
from memvp_export.exporter.models import apt_vilt
from torch import Tensor, nn
from transformers import ViltConfig, ViltModel

CONFIG = apt_vilt.Config(
    task="irtr",
    dim=96,
    blocks=3,
    heads=6,
    ffn_dim=160,
    vocab=130,
    text_length=14,
    patch=16,
    grid=5,
    token_types=2,
    prompt_rows=5,
    head_dim=0,
    classes=1,
    height=64,
    width=96,
    max_batch=8,
)
FIRST_ID = 7


@pytest.fixture(scope="module")
def host() -> ViltModel:
    torch.manual_seed(0)
    model = ViltModel(
        ViltConfig(
            vocab_size=CONFIG.vocab,
            hidden_size=CONFIG.dim,
            num_hidden_layers=CONFIG.blocks,
            num_attention_heads=CONFIG.heads,
            intermediate_size=CONFIG.ffn_dim,
            max_position_embeddings=CONFIG.text_length,
            image_size=CONFIG.grid * CONFIG.patch,
            patch_size=CONFIG.patch,
            max_image_length=-1,
            layer_norm_eps=1e-6,
        )
    ).eval()
    # Hugging Face knows one epsilon, the official model two (spec 4.5).
    model.embeddings.text_embeddings.LayerNorm.eps = 1e-12
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model


def official(host: ViltModel) -> dict[str, Tensor]:
    """Hugging Face's state dict under the official names (spec 4.5), with prompts that add nothing."""
    theirs = host.state_dict()
    own = {
        "transformer.cls_token": theirs["embeddings.cls_token"],
        "transformer.pos_embed": theirs["embeddings.position_embeddings"],
        "token_type_embeddings.weight": theirs["embeddings.token_type_embeddings.weight"],
    }
    parts = {
        "transformer.patch_embed.proj": "embeddings.patch_embeddings.projection",
        "transformer.norm": "layernorm",
        "pooler.dense": "pooler.dense",
        "text_embeddings.LayerNorm": "embeddings.text_embeddings.LayerNorm",
    }
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
    names |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    for i in range(CONFIG.blocks):
        block, layer = f"transformer.blocks.{i}", f"encoder.layer.{i}"
        parts |= {f"{block}.{ours}": f"{layer}.{name}" for ours, name in names.items()}
        for kind in ("weight", "bias"):
            packed = [theirs[f"{layer}.attention.attention.{n}.{kind}"] for n in ("query", "key", "value")]
            own[f"{block}.attn.qkv.{kind}"] = torch.cat(packed)
        own |= {
            f"{block}.attn.APT.mm_tokens": torch.zeros(CONFIG.prompt_rows, CONFIG.dim),
            f"{block}.attn.APT.mm.0.weight": torch.randn(4, CONFIG.dim),
            f"{block}.attn.APT.mm.1.weight": torch.randn(CONFIG.dim, 4),
            f"{block}.attn.APT.scale": torch.zeros(1),
        }
    for ours, name in parts.items():
        own |= {f"{ours}.{kind}": theirs[f"{name}.{kind}"] for kind in ("weight", "bias")}
    for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        own[f"text_embeddings.{table}.weight"] = theirs[f"embeddings.text_embeddings.{table}.weight"]
    with torch.no_grad():
        first = host.embeddings.text_embeddings(input_ids=torch.tensor([[FIRST_ID]]))
    # The pooled vector itself, as a score of as many classes.
    own |= {"token4classifier": first, "rank_output.weight": torch.eye(CONFIG.dim)}
    return own | {
        "rank_output.bias": torch.zeros(CONFIG.dim),
        apt_vilt.TEXT_EPS: torch.tensor([1e-12]),
        "positions.by_rows": torch.from_numpy(apt_vilt.interpolation(CONFIG.grid, CONFIG.rows)),
        "positions.by_columns": torch.from_numpy(apt_vilt.interpolation(CONFIG.grid, CONFIG.columns)),
    }


def test_vilt_without_prompts(host: ViltModel) -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, CONFIG.vocab, (3, 9), generator=generator)
    ids[:, 0] = FIRST_ID
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    pixels = torch.randn(3, 3, 64, 96, generator=generator)
    pixel_mask = torch.zeros(3, 64, 96, dtype=torch.long)
    for row, (height, width) in enumerate(((64, 96), (48, 80), (16, 64))):
        pixel_mask[row, :height, :width] = 1
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "pixel_mask": pixel_mask}
    weights = official(host)
    with torch.no_grad():
        expected = host(**inputs).pooler_output
        actual = apt_vilt.model(weights, CONFIG, inputs)
        prompted = weights | {n: torch.randn_like(t) for n, t in weights.items() if n.endswith("mm_tokens")}
        with_prompts = apt_vilt.model(prompted, CONFIG, inputs)
    assert float((actual - expected).norm() / expected.norm()) < 1e-6
    assert float((with_prompts - actual).norm() / actual.norm()) > 1e-2, "the prompts must be what was off"
