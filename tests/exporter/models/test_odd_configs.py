"""Values of a host's config.json that nothing writes: each key is taken or refused by name, and never a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest
from memvp_export.examples import random_bart, random_t5
from memvp_export.exporter.checkpoints import huggingface_bart, huggingface_t5
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models import memvp_bart_files, memvp_t5_files

RULES = (
    *("decoder_start_token_id", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id", "bos_token_id"),
    *("no_repeat_ngram_size", "min_length", "length_penalty", "early_stopping", "force_bos_token_to_be_generated"),
    *("bad_words_ids", "repetition_penalty", "tie_word_embeddings"),
)
KEYS = {
    "bart": (
        *("d_model", "max_position_embeddings", "vocab_size", "encoder_layers", "decoder_ffn_dim"),
        *("encoder_attention_heads", "decoder_attention_heads", "activation_function", "scale_embedding"),
        *("normalize_before", "extra_pos_embeddings", *RULES),
    ),
    "t5": (
        *("d_model", "num_layers", "d_ff", "num_heads", "d_kv", "relative_attention_num_buckets", "vocab_size"),
        *("relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj", *RULES),
    ),
}
ODD: list[Any] = [["gelu"], {"a": [1]}, "gelu-not", True, -1, 10**400, 1.5]
FAMILIES = {
    "bart": (random_bart, huggingface_bart.read_huggingface_bart, memvp_bart_files._config),
    "t5": (random_t5, huggingface_t5.read_huggingface_t5, memvp_t5_files._config),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_odd_values_are_taken_or_refused_by_name(family: str, tmp_path: Path) -> None:
    example, read, config_of = FAMILIES[family]
    example.write_source(tmp_path, example.PRESETS["odd"])
    path = tmp_path / "base" / "config.json"
    good = json.loads(path.read_text())
    refused = set()
    for key in KEYS[family]:
        for value in ODD:
            path.write_text(json.dumps(good | {key: value}))
            try:
                config_of(read(path.parent))
            except InputError as error:
                assert key in str(error) or ("heads" in key and "heads do not divide" in str(error)), (key, value)
                refused.add(key)
    # The older flag says which of these ids is forced.
    assert refused == {*KEYS[family]} - {"bos_token_id"}


def test_the_words_say_what_was_expected(tmp_path: Path) -> None:
    random_bart.write_source(tmp_path, random_bart.PRESETS["odd"])
    path = tmp_path / "base" / "config.json"
    good = json.loads(path.read_text())
    for key, value, message in (
        ("activation_function", ["gelu"], r"activation_function is \['gelu'\]; this version knows silu"),
        ("scale_embedding", "no", "scale_embedding is 'no', expected true or false"),
        ("length_penalty", 1e9, "length_penalty is 1000000000.0, expected a number from -32 to 32"),
    ):
        path.write_text(json.dumps(good | {key: value}))
        with pytest.raises(InputError, match=message):
            memvp_bart_files._config(huggingface_bart.read_huggingface_bart(path.parent))
