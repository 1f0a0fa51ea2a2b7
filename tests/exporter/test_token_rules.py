"""The rules about the next token are those of transformers' logits processors."""

from typing import Any

import numpy as np
import pytest
import torch
from memvp_export.exporter.token_rules import TokenRules
from transformers.generation.logits_process import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
)

VOCAB, EOS, LONGEST = 6, 2, 9
BART = {"no_repeat_ngram_size": 3, "min_length": 4, "forced_bos_token_id": 0, "forced_eos_token_id": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "null": dict.fromkeys(BART),
    "BART": BART,
    "words": {"no_repeat_ngram_size": 1},
    "pairs": {"no_repeat_ngram_size": 2},
    "triples": {"no_repeat_ngram_size": 3},
    "long": {"min_length": 5},
    "first": {"forced_bos_token_id": 4},
    "last": {"forced_eos_token_id": 2},
}


def processors(settings: dict[str, Any]) -> LogitsProcessorList:
    """In generate()'s order."""
    made = {
        "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
        "min_length": lambda value: MinLengthLogitsProcessor(value, torch.tensor([EOS])),
        "forced_bos_token_id": ForcedBOSTokenLogitsProcessor,
        "forced_eos_token_id": lambda value: ForcedEOSTokenLogitsProcessor(LONGEST, torch.tensor([value])),
    }
    return LogitsProcessorList(make(settings[key]) for key, make in made.items() if settings.get(key) is not None)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_the_rules_are_those_of_transformers(settings: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)
    rules = TokenRules.from_manifest(settings, EOS, LONGEST)
    moved = False
    for length in [*range(1, LONGEST)] * 8:
        ids, logits = generator.integers(0, VOCAB, (3, length)), generator.standard_normal((3, VOCAB), np.float32)
        expected = processors(settings)(torch.from_numpy(ids), torch.from_numpy(logits)).numpy()
        before = logits.copy()
        found = rules.applied(logits, ids)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(logits, before)
        moved |= bool((found != logits).any())
    assert moved == any(settings.values())
