"""T5's two forward passes against transformers', without memory, and with the memory hooked onto its FFNs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from memvp_export.exporter.keep_fp32 import is_kept, own_patterns
from memvp_export.exporter.models import memvp_encoder_decoder as shared
from memvp_export.exporter.models import t5
from memvp_export.exporter.models.memvp_t5 import Config
from torch import Tensor
from torch.nn import functional as F
from transformers import T5Config as HostConfig
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from .encoder_decoder_passes import MEMORY, questions, run
from .memory_hooks import memory_added, t5_ffns

HOST = t5.T5Config(
    dim=24,
    encoder_layers=2,
    decoder_layers=3,
    heads=5,
    head_dim=6,
    ffn_dim=40,
    vocab=31,
    max_distance=4,
    eps=1e-6,
)
CONFIG = Config(HOST, MEMORY, text_length=20, max_sequence=20, max_batch=4)
# Few enough that the longest distances of a short text share one.
BUCKETS = 6


@pytest.fixture(scope="module")
def model() -> T5ForConditionalGeneration:
    torch.manual_seed(3)
    model = T5ForConditionalGeneration(
        HostConfig(
            d_model=HOST.dim,
            num_layers=HOST.encoder_layers,
            num_decoder_layers=HOST.decoder_layers,
            num_heads=HOST.heads,
            d_kv=HOST.head_dim,
            d_ff=HOST.ffn_dim,
            vocab_size=HOST.vocab,
            relative_attention_num_buckets=BUCKETS,
            relative_attention_max_distance=HOST.max_distance,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def weights(model: T5ForConditionalGeneration) -> dict[str, Tensor]:
    generator, state = torch.Generator().manual_seed(4), model.state_dict()
    memory = {name: 0.3 * torch.randn(MEMORY.table_rows, HOST.dim, generator=generator) for name in shared.TABLES}
    tables = {
        t5.TABLES[side]: t5.by_distance(state[name], HOST.max_distance, side) for side, name in t5.BUCKETS.items()
    }
    return {**state, **tables, **memory}


@pytest.mark.parametrize("places", [*shared.PLACES, "none"])
def test_passes_are_those_of_transformers(model: Any, weights: dict[str, Tensor], places: str) -> None:
    asked = questions(CONFIG)
    if places == "none":
        weights = weights | {name: torch.zeros_like(weights[name]) for name in shared.TABLES}
        asked = asked._replace(visual=torch.zeros_like(asked.visual))
    config = replace(CONFIG, memory=replace(MEMORY, places="both" if places == "none" else places))
    with torch.no_grad(), memory_added(t5_ffns(model, places), asked.visual, weights, F.relu):
        expected = model(input_ids=asked.ids, attention_mask=asked.mask, decoder_input_ids=asked.written)
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


@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (BUCKETS, HOST.max_distance), (16, 50), (8, 20)])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_distances_have_the_buckets_of_transformers(buckets: int, farthest: int, side: str) -> None:
    reach = farthest + 9
    both_ways = side == "encoder"
    # Keys ahead of a query are masked in the decoder.
    ahead = torch.arange(-reach, reach + 1 if both_ways else 1)
    bucket = T5Attention._relative_position_bucket(ahead, both_ways, buckets, farthest)
    table = t5.by_distance(torch.arange(buckets)[:, None], farthest, side)[:, 0]
    near = ahead.clamp(-farthest, farthest)
    assert table[near + farthest if both_ways else -near].tolist() == bucket.tolist()


def test_float16_holds_what_transformers_does(weights: dict[str, Tensor]) -> None:
    """Products of `wo` may be beyond float16: transformers keeps these matrices in float32, and so do the graphs."""
    asked = questions(CONFIG)
    large = {name: 3e4 * tensor if name.endswith(".wo.weight") else tensor for name, tensor in weights.items()}
    wide = {name for part in shared.components(CONFIG) for name, weight in part.weights.items() if weight.float32}

    def half(patterns: Sequence[str]) -> tuple[Tensor, Tensor]:
        kinds = {name: torch.float32 if name in wide or is_kept(name, patterns) else torch.float16 for name in large}
        chosen = {name: tensor.clamp(-65504, 65504).to(kinds[name]) for name, tensor in large.items()}
        with torch.no_grad():
            return run(CONFIG, chosen, asked._replace(visual=asked.visual.half()))

    with torch.no_grad():
        expected = run(CONFIG, large, asked)
    for found, exact in zip(half(own_patterns("memvp-t5", "decoder", "fp16")), expected, strict=True):
        assert (found - exact).norm() / exact.norm() < 1e-2
    assert not all(found.isfinite().all() for found in half([]))
