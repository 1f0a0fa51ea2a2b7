"""BART's two forward passes against transformers', without memory, and with the memory hooked onto its FFNs."""

from dataclasses import replace

import pytest
import torch
from memvp_export.exporter.models import memvp_encoder_decoder as shared
from memvp_export.exporter.models.bart import BartConfig
from memvp_export.exporter.models.memvp_bart import Config
from torch import Tensor
from torch.nn import functional as F
from transformers import BartConfig as HostConfig
from transformers import BartForConditionalGeneration

from .encoder_decoder_passes import MEMORY, questions, run
from .memory_hooks import bart_ffns, memory_added

HOST = BartConfig(
    dim=24,
    encoder_layers=2,
    decoder_layers=3,
    encoder_heads=3,
    heads=4,
    encoder_ffn_dim=40,
    decoder_ffn_dim=56,
    vocab=31,
    positions=20,
    word_scale=24**0.5,
    activation="gelu",
)
CONFIG = Config(HOST, MEMORY, text_length=20, max_sequence=20, max_batch=4)


@pytest.fixture(scope="module")
def model() -> BartForConditionalGeneration:
    torch.manual_seed(3)
    model = BartForConditionalGeneration(
        HostConfig(
            d_model=HOST.dim,
            encoder_layers=HOST.encoder_layers,
            decoder_layers=HOST.decoder_layers,
            encoder_attention_heads=HOST.encoder_heads,
            decoder_attention_heads=HOST.heads,
            encoder_ffn_dim=HOST.encoder_ffn_dim,
            decoder_ffn_dim=HOST.decoder_ffn_dim,
            vocab_size=HOST.vocab,
            max_position_embeddings=HOST.positions,
            scale_embedding=True,
        )
    ).eval()
    with torch.no_grad():
        for parameter in (*model.parameters(), model.final_logits_bias):
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def weights(model: BartForConditionalGeneration) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    memory = {name: 0.3 * torch.randn(MEMORY.table_rows, HOST.dim, generator=generator) for name in shared.TABLES}
    return {**model.state_dict(), **memory}


@pytest.mark.parametrize("places", [*shared.PLACES, "none"])
def test_passes_are_those_of_transformers(
    model: BartForConditionalGeneration, weights: dict[str, Tensor], places: str
) -> None:
    asked = questions(CONFIG)
    if places == "none":
        weights = weights | {name: torch.zeros_like(weights[name]) for name in shared.TABLES}
        asked = asked._replace(visual=torch.zeros_like(asked.visual))
    config = replace(CONFIG, memory=replace(MEMORY, places="both" if places == "none" else places))
    with torch.no_grad(), memory_added(bart_ffns(model, places), asked.visual, weights, F.gelu):
        expected = model(input_ids=asked.ids, attention_mask=asked.mask, decoder_input_ids=asked.written)
    with torch.no_grad():
        last, logits = run(config, weights, asked)
    used = asked.mask != 0
    torch.testing.assert_close(last[used], expected.encoder_last_hidden_state[used], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)


def test_the_memory_moves_the_logits_of_rows_that_have_an_image_only(weights: dict[str, Tensor]) -> None:
    asked = questions(CONFIG)
    with torch.no_grad():
        (_, seen), (_, blind) = (run(CONFIG, weights, asked._replace(visual=z * asked.visual)) for z in (1, 0))
    moved = (seen - blind).flatten(1).abs().amax(1)
    assert moved[1] == 0 and min(moved[0], moved[2]) > 0.1


def test_vision_projects_features_and_scales_them() -> None:
    vision = shared.components(CONFIG)[0]
    generator = torch.Generator().manual_seed(6)
    weights = {name: torch.randn(weight.shape, generator=generator) for name, weight in vision.weights.items()}
    features = torch.randn(2, MEMORY.rows, MEMORY.width, generator=generator)
    (found,) = vision.forward(weights, {"image_features": features})
    w1, b1, w2, b2 = (weights[f"adapter_proj.{name}"] for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"))
    narrow = torch.einsum("bvf,nf->bvn", features, w1) + b1
    expected = 0.01 * (torch.einsum("bvn,dn->bvd", narrow * torch.sigmoid(narrow), w2) + b2)
    torch.testing.assert_close(found, expected)


def test_a_config_survives_json() -> None:
    assert Config.from_dict(CONFIG.to_dict()) == CONFIG
