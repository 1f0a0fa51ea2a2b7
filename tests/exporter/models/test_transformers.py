"""Host models with the memory off against transformers on the same weights."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from memvp_export.exporter.models import clip_tower, memvp_llama
from memvp_export.exporter.models.family import Model
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

COLUMNS = 9


def distance(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def weights(model: Model) -> dict[str, Tensor]:
    names = model.components[1].weights
    found = {name: model.weights[name].load().float() for name in names}
    return found | {
        "adapter_emb2": torch.zeros_like(found["adapter_emb2"]),
        "rotary.inverse_frequencies": torch.from_numpy(memvp_llama.rotary_frequencies(model.config)),
    }


@pytest.fixture(scope="module")
def llama(model: Model, weights: Mapping[str, Tensor]) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=model.config.vocab,
        hidden_size=model.config.dim,
        intermediate_size=model.config.ffn_dim,
        num_hidden_layers=model.config.layers,
        num_attention_heads=model.config.heads,
        rms_norm_eps=model.config.norm_eps,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    host = LlamaForCausalLM(config).eval()
    own = {name: tensor for name, tensor in weights.items() if name.startswith(("model.", "lm_head."))}
    host.load_state_dict(own, strict=True)
    return host


@pytest.mark.parametrize("pads", [0, 4])
def test_llama_without_memory(model: Model, weights: Mapping[str, Tensor], llama: LlamaForCausalLM, pads: int) -> None:
    config = model.config
    ids = torch.randint(0, config.vocab, (2, COLUMNS), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :pads] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "logits_positions": torch.arange(COLUMNS).expand(2, -1),
        "visual_memory": torch.zeros(2, config.tower.rows, config.dim),
    }
    empty = torch.empty(2, config.heads, 0, config.head_dim)
    inputs |= {f"past_key_values.{i}.{kind}": empty for i in range(config.layers) for kind in ("key", "value")}
    logits, *present = memvp_llama.decoder(weights, config, inputs)
    with torch.no_grad():
        expected = llama(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
    assert distance(logits[mask == 1], expected.logits[mask == 1]) < 1e-5
    layer = expected.past_key_values.layers[-1]
    assert distance(present[-2][:, :, pads:], layer.keys[:, :, pads:]) < 1e-5
    assert distance(present[-1][:, :, pads:], layer.values[:, :, pads:]) < 1e-5

    image = torch.randn(inputs["visual_memory"].shape, generator=torch.Generator().manual_seed(1))
    seen, *_ = memvp_llama.decoder(weights, config, inputs | {"visual_memory": image})
    assert distance(seen[mask == 1], logits[mask == 1]) > 1e-2, "the memory must be what was off"


def test_clip_tower_with_adapters_at_zero() -> None:
    config = clip_tower.TowerConfig(width=128, blocks=4, patch=4, grid=3, adapter_dim=5, adapter_scale=0.1)
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=config.width,
        intermediate_size=4 * config.width,
        num_hidden_layers=config.blocks,
        num_attention_heads=config.width // clip_tower.HEAD_WIDTH,
        image_size=config.image_size,
        patch_size=config.patch,
        hidden_act="quick_gelu",
        attn_implementation="eager",
    )
    host = CLIPVisionModel(vision).eval()
    for name, parameter in host.named_parameters():
        torch.nn.init.normal_(
            parameter, mean=float("norm" in name and "weight" in name), std=parameter.shape[-1] ** -0.5
        )
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    with torch.no_grad():
        hidden = host(pixels, output_hidden_states=True).hidden_states[-2]
        expected = getattr(host, "vision_model", host).post_layernorm(hidden[:, 1:])

    official = official_tower(
        {name.removeprefix("vision_model."): tensor for name, tensor in host.state_dict().items()}
    )
    for name, weight in clip_tower.tower_weights(config).items():
        if "adapter_mlp" in name:
            official[name] = torch.randn(weight.shape) if "fc1" in name else torch.zeros(weight.shape)
    assert distance(clip_tower.tower(official, config, pixels), expected) < 1e-5
    without = {name: tensor for name, tensor in official.items() if "adapter_mlp" not in name}
    assert distance(clip_tower.tower(without, replace(config, adapter_dim=0), pixels), expected) < 1e-5
    trained = {name: torch.randn_like(t) if "adapter_mlp" in name else t for name, t in official.items()}
    assert distance(clip_tower.tower(trained, config, pixels), expected) > 1e-2


def official_tower(host: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's state dict of a CLIP vision model under OpenAI's names (spec 1.9)."""
    official = {
        "visual.conv1.weight": host["embeddings.patch_embedding.weight"],
        "visual.class_embedding": host["embeddings.class_embedding"],
        "visual.positional_embedding": host["embeddings.position_embedding.weight"],
    }
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for kind in ("weight", "bias"):
        official[f"visual.ln_pre.{kind}"] = host[f"pre_layrnorm.{kind}"]
        official[f"visual.ln_post.{kind}"] = host[f"post_layernorm.{kind}"]
        for i in range(sum(name.endswith("layer_norm1.bias") for name in host)):
            block, layer = f"visual.transformer.resblocks.{i}", f"encoder.layers.{i}"
            official |= {f"{block}.{ours}.{kind}": host[f"{layer}.{theirs}.{kind}"] for ours, theirs in names.items()}
            packed = [host[f"{layer}.self_attn.{n}_proj.{kind}"] for n in "qkv"]
            official[f"{block}.attn.in_proj_{kind}"] = torch.cat(packed)
    return official
