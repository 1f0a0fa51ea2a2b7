"""Beam search finds what transformers' generate() finds, with the same model giving the logits."""

from typing import Any

import numpy as np
import pytest
import torch
from memvp_export.exporter.beam_search import BeamSettings, beam_search
from memvp_export.exporter.token_rules import TokenRules
from transformers import T5Config, T5ForConditionalGeneration

VOCAB, EOS, START, ROWS = 29, 1, 0, 4


@pytest.fixture(scope="module")
def model() -> T5ForConditionalGeneration:
    """Small and loud: its tokens are far from equally probable, and one ends now and then."""
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=START
    )
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape))
        model.shared.weight[EOS] *= 3
    return model


@pytest.fixture(scope="module")
def questions() -> torch.Tensor:
    return torch.randint(3, VOCAB, (ROWS, 5), generator=torch.Generator().manual_seed(2))


def searched(
    model: Any, questions: torch.Tensor, rules: TokenRules, settings: BeamSettings, pieces: int
) -> list[list[int]]:
    rows = questions.repeat_interleave(settings.beams, 0)
    with torch.no_grad():
        encoded = model.encoder(rows).last_hidden_state
    before: list[np.ndarray] = []

    def next_logits(ids: np.ndarray, origins: np.ndarray | None) -> np.ndarray:
        # What a row goes on from is what the row it came from was.
        if origins is not None:
            np.testing.assert_array_equal(ids[:, :-1], before[-1][origins])
            assert (origins // settings.beams == np.arange(len(ids)) // settings.beams).all()
        before.append(ids)
        with torch.no_grad():
            found = model(encoder_outputs=(encoded,), decoder_input_ids=torch.from_numpy(ids))
        return found.logits[:, -1].numpy()

    return beam_search(next_logits, len(questions), START, rules, settings, pieces)


def generated(model: Any, questions: torch.Tensor, settings: BeamSettings, **rules: Any) -> list[list[int]]:
    with torch.no_grad():
        found = model.generate(
            questions,
            do_sample=False,
            use_cache=False,
            num_beams=settings.beams,
            length_penalty=settings.length_penalty,
            early_stopping=settings.early_stopping,
            **rules,
        )
    return [row[1 : row.index(EOS) + 1] if EOS in row else row[1:] for row in found.tolist()]


LONGEST = 12
RULES = TokenRules(EOS, LONGEST)
SETTINGS = {
    "plain": BeamSettings(5),
    "three": BeamSettings(3),
    "early": BeamSettings(5, early_stopping=True),
    "never": BeamSettings(4, early_stopping="never"),
    "long": BeamSettings(4, length_penalty=2.5),
    "long, never": BeamSettings(4, length_penalty=2.0, early_stopping="never"),
    "short": BeamSettings(4, length_penalty=-1.0),
    "no penalty": BeamSettings(4, length_penalty=0.0),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_it_is_that_of_transformers(model: Any, questions: torch.Tensor, settings: BeamSettings) -> None:
    found = searched(model, questions, RULES, settings, VOCAB)
    assert found == generated(model, questions, settings, max_length=LONGEST)


@pytest.mark.parametrize(
    "rules",
    [
        {"no_repeat_ngram_size": 2, "min_length": 6},
        {"forced_bos_token_id": 7, "forced_eos_token_id": EOS},
        {"min_length": LONGEST},
    ],
)
@pytest.mark.parametrize("settings", [BeamSettings(4), BeamSettings(4, early_stopping=True)])
def test_with_rules(model: Any, questions: torch.Tensor, settings: BeamSettings, rules: dict[str, Any]) -> None:
    found = searched(model, questions, TokenRules.from_manifest(rules, EOS, LONGEST), settings, VOCAB)
    assert found == generated(model, questions, settings, max_length=LONGEST, **rules)


def test_ids_behind_the_pieces_share_the_probability(model: Any, questions: torch.Tensor) -> None:
    pieces, settings = 20, BeamSettings(4)
    found = searched(model, questions, RULES, settings, pieces)
    assert max(map(max, found)) < pieces
    assert found == generated(model, questions, settings, max_length=LONGEST, suppress_tokens=[*range(pieces, VOCAB)])


def test_each_setting_matters(model: Any, questions: torch.Tensor) -> None:
    found = {name: searched(model, questions, RULES, settings, VOCAB) for name, settings in SETTINGS.items()}
    assert len({str(rows) for rows in found.values()}) > 4
    assert len({len(row) for row in found["plain"]}) > 1, "rows should end at different lengths"
    greedy = searched(model, questions, RULES, BeamSettings(1), VOCAB)
    assert greedy == generated(model, questions, BeamSettings(1), max_length=LONGEST) != found["plain"]
