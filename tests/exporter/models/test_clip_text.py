"""CLIP's text tower against transformers on the same weights: any padding, both rules for the end of a text."""

import pytest
import torch
from memvp_export.exporter.models.clip_encoder import EncoderConfig
from memvp_export.exporter.models.clip_text import TextConfig, hidden_states, pooled, text_weights
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from .apt_statement import distance

VOCAB, POSITIONS, LAST = 90, 13, 89


def host_of(end: int, activation: str) -> tuple[CLIPTextModel, dict[str, Tensor]]:
    config = CLIPTextConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=POSITIONS,
        hidden_act=activation,
        eos_token_id=end,
        bos_token_id=LAST - 1,
        pad_token_id=1,
    )
    host, generator = CLIPTextModel(config).eval(), torch.Generator().manual_seed(0)
    for parameter in host.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    # Some versions of transformers have the prefix, some do not.
    state = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in host.state_dict().items()}
    return host, state


@pytest.mark.parametrize(("end", "rule"), [(2, None), (LAST, LAST)])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_hidden_states_and_the_row_of_the_end(end: int, rule: int | None, activation: str) -> None:
    host, weights = host_of(end, activation)
    config = TextConfig(EncoderConfig(48, 2, 3, 80, activation, 1e-5), VOCAB, POSITIONS, rule)
    assert text_weights(config).keys() <= weights.keys()
    ids = torch.randint(3, LAST - 1, (5, 11), generator=torch.Generator().manual_seed(1))
    ids[0, 6:] = ids[1, 10] = ids[2, 4] = LAST
    # One row pads on the left, one has a hole, one ends twice; the last never ends where the end is an id.
    ids[3, [5, 8]] = LAST
    mask = torch.ones_like(ids)
    mask[0, 7:] = mask[1, :3] = mask[2, 2] = 0
    with torch.no_grad():
        expected = host(input_ids=ids, attention_mask=mask)
        hidden = hidden_states(weights, config, ids, mask)
        alone = host(input_ids=ids)
        everywhere = hidden_states(weights, config, ids)
    assert distance(hidden[mask == 1], expected.last_hidden_state[mask == 1]) < 1e-6
    assert distance(pooled(config, ids, hidden)[:, 0], expected.pooler_output) < 1e-6
    assert distance(everywhere, alone.last_hidden_state) < 1e-6
    assert distance(everywhere[mask == 1], hidden[mask == 1]) > 1e-2


def test_what_comes_after_the_end_changes_nothing() -> None:
    _, weights = host_of(LAST, "gelu")
    config = TextConfig(EncoderConfig(48, 2, 3, 80, "gelu", 1e-5), VOCAB, POSITIONS, LAST)
    short = torch.tensor([[LAST - 1, 5, 6, LAST]])
    long = torch.tensor([[LAST - 1, 5, 6, LAST, 0, LAST, 7]])
    rows = [pooled(config, ids, hidden_states(weights, config, ids)) for ids in (short, long)]
    assert distance(rows[1], rows[0]) < 1e-6
    again = TextConfig.from_dict(config.to_dict())
    assert again == config
