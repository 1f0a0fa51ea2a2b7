"""How a Hugging Face model writes: the rules of its generation_config.json, or of its config.json where it has none."""

from pathlib import Path
from typing import Any

from ..errors import InputError
from .json_file import flag, read_object

FILE = "generation_config.json"
# What `token_rules.TokenRules` follows, and the ids that begin and end what is written.
_IDS = ("decoder_start_token_id", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id")
_COUNTS = ("no_repeat_ngram_size", "min_length")
# What would change an answer, greedy or searched with beams, and is not followed, with the values that do nothing.
_OTHERS: dict[str, tuple[Any, ...]] = {
    "min_new_tokens": (None, 0),
    "repetition_penalty": (None, 1),
    "encoder_repetition_penalty": (None, 1),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "sequence_bias": (None, {}, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_decoder_ids": (None, []),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1),
    "renormalize_logits": (None, False),
    "num_beam_groups": (None, 1),
    "diversity_penalty": (None, 0),
    "force_words_ids": (None, []),
    "constraints": (None, []),
}
# How older versions of transformers, 4.2.1 among them, say that a BART's first token is forced. They always force its
# last one.
_OLD_FORCED_FIRST = "force_bos_token_to_be_generated"
# Lengths to this power are still numbers.
_STRONGEST_PENALTY = 32


def read_rules(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Any], list[Path]]:
    """The rules that say anything, by transformers' names, and the file they are in beside config.json, if any.

    InputError for a rule that is no number, and for those that are not followed: answers would be others.
    """
    path = folder / FILE
    rules = read_object(path) if path.is_file() else config
    where = path if path.is_file() else folder / "config.json"
    if unlike := [key for key, nothing in _OTHERS.items() if rules.get(key) not in nothing]:
        raise InputError(
            f"{where} asks for {unlike[0]} = {rules[unlike[0]]!r}, which is not followed here: answers would be others "
            "than the model's. Remove it if the model was trained and tested without."
        )
    found = {key: _whole(rules, key, where) for key in (*_IDS, *_COUNTS)}
    forces_first = flag(rules, _OLD_FORCED_FIRST, where)
    if found["forced_bos_token_id"] is None and forces_first:
        found["forced_bos_token_id"] = _whole(config, "bos_token_id", where)
    if found["forced_eos_token_id"] is None and _OLD_FORCED_FIRST in rules:
        found["forced_eos_token_id"] = _whole(config, "eos_token_id", where)
    said = {key: value for key, value in found.items() if value is not None and (value or key in _IDS)}
    return {**said, **_beam_rules(rules, where)}, [path] if path.is_file() else []


def _beam_rules(rules: dict[str, Any], where: Path) -> dict[str, Any]:
    """What `beam_search.BeamSettings` follows; how many beams there are is the task's."""
    penalty, early = rules.get("length_penalty"), rules.get("early_stopping")
    if penalty is not None and (type(penalty) not in (int, float) or not abs(penalty) <= _STRONGEST_PENALTY):
        raise InputError(
            f"{where}: length_penalty is {penalty!r}, expected a number from {-_STRONGEST_PENALTY} to "
            f"{_STRONGEST_PENALTY}."
        )
    if early not in (None, "never") and not isinstance(early, bool):
        raise InputError(f'{where}: early_stopping is {early!r}, expected true, false or "never".')
    said = {} if penalty is None else {"length_penalty": float(penalty)}
    return said | ({"early_stopping": early} if early else {})


def _whole(rules: dict[str, Any], key: str, where: Path) -> int | None:
    value = rules.get(key)
    if value is not None and (type(value) is not int or value < 0):
        raise InputError(f"{where}: {key} is {value!r}, expected a whole number.")
    return value
