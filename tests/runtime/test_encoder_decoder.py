"""Answers after an encoder are the Python pipeline's: the same tokens, logits and calls, over models in closed
form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.data import Request
from memvp_export.exporter.encoder_decoder import EncoderDecoder
from memvp_export.exporter.engines.shapes import built_ranges
from memvp_export.exporter.errors import ToolError
from memvp_export.exporter.image_features import features_preprocessing
from memvp_export.exporter.settings import Settings

from . import closed_form
from .conftest import Refused
from .engine_bundle import brightness

Host = Callable[..., Any]
TEXTS = [[5, 3, 9, 1], [1], [4, 4, 8, 1, 7, 20, 11], [6, 2, 6, 10], [9, 9, 9, 9, 9, 17, 3, 3, 3, 8, 1], [3, 12]]
ROWS, WIDTH = 4, 3
SPEC = features_preprocessing(ROWS, WIDTH)
TOKENIZER = {"eos": 2, "pad": 0, "maximum": 8, "pieces": closed_form.PIECES}
START = {"decoder_start_token_id": 1, "max_new_tokens": 9}
RULES: dict[str, dict[str, Any]] = {
    "none": {},
    "null": dict.fromkeys(["forced_bos_token_id", "no_repeat_ngram_size", "min_length", "length_penalty"]),
    "BART": {"no_repeat_ngram_size": 3, "min_length": 4, "forced_bos_token_id": 0, "forced_eos_token_id": 2},
    "words": {"no_repeat_ngram_size": 1},
    "pairs": {"no_repeat_ngram_size": 2, "min_length": 12},
    "last": {"forced_eos_token_id": 7},
}
BEAMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "early": {"early_stopping": True},
    "never": {"early_stopping": "never", "length_penalty": 2.0},
    "long": {"length_penalty": 2.5, "min_length": 4},
    "short": {"length_penalty": -1.0, "early_stopping": False},
    "BART": {**RULES["BART"], "early_stopping": True},
}


def entries(kind: str = "delta", **sizes: int) -> dict[str, dict[str, Any]]:
    read = {name: size for name, size in sizes.items() if name in ("max_batch", "max_read")}
    return {"encoder": closed_form.encoder_entry(**read), "decoder": closed_form.behind_entry(kind, **sizes)}


def pipeline(
    made: dict[str, Any], generation: dict[str, Any], session: closed_form.ClosedFormSession
) -> EncoderDecoder:
    vision = {"inputs": [{"name": "image_features"}], "ranges": {"batch": [1, 99]}}
    components = {name: {**entry, "ranges": built_ranges(entry)} for name, entry in made.items()}
    tokenizer = closed_form.IdTokenizer(TOKENIZER["maximum"])
    return EncoderDecoder(session, tokenizer, SPEC, {"vision": vision, **components}, {**START, **generation})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path | None, int]]:
    """A file of features, or none, for each text, and how bright it is."""
    folder, made = tmp_path_factory.mktemp("features"), []
    for number in range(len(TEXTS)):
        features = np.random.default_rng(number).standard_normal((ROWS, WIDTH)).astype(np.float32)
        path = folder / f"{number}.npy"
        np.save(path, features)
        made.append((None, 0) if number == 3 else (path, brightness(features)))
    return made


def requests(texts: list[list[int]], shown: list[tuple[Path | None, int]]) -> list[Request]:
    return [Request(str(n), " ".join(map(str, text)), shown[n][0]) for n, text in enumerate(texts)]


def both(
    host: Host,
    folder: Path,
    shown: list[tuple[Path | None, int]],
    made: dict[str, Any],
    generation: dict[str, Any],
    texts: list[list[int]],
    settings: Settings,
) -> tuple[list[list[int]], list[list[int]]]:
    """The answers of Python and of C++, whose calls and cuts are the same."""
    session = closed_form.ClosedFormSession(made["decoder"]["cache"]["kind"], [bright for _, bright in shown])
    answers = pipeline(made, generation, session).answer(requests(texts, shown), settings)
    found, calls = written(host, folder, shown, made, generation, texts, settings)
    assert [cut for _, cut, _ in found] == [answer.truncated for answer in answers]
    assert calls == session.calls
    return [list(answer.ids) for answer in answers], [ids for ids, _, _ in found]


def written(
    host: Host,
    folder: Path,
    shown: list[tuple[Path | None, int]],
    made: dict[str, Any],
    rules: dict[str, Any],
    texts: list[list[int]],
    settings: Settings,
    **changed: Any,
) -> Any:
    manifest = {"family": "memvp-t5", "tokenizer": TOKENIZER, "generation": {**START, **rules}, **changed}
    asked = {"max_new_tokens": settings.max_new_tokens, "batch": settings.batch or 0, "beams": settings.beams}
    visual = [bright for _, bright in shown]
    return host("write", manifest=manifest, texts=texts, visual=visual, logits=folder / "logits", **made, **asked)


@pytest.mark.parametrize("name", RULES)
def test_greedy_answers_are_pythons(host: Host, tmp_path: Path, shown: Any, name: str) -> None:
    """Texts of several lengths, one of them cut, in batches of three sizes and with every rule."""
    lengths = set()
    for number, (new, batch) in enumerate([(1, None), (2, 3), (14, None), (14, 1), (32, 2)]):
        made = entries("concat" if number % 2 else "delta")
        expected, found = both(host, tmp_path, shown, made, RULES[name], TEXTS, Settings(new, batch=batch))
        assert found == expected
        lengths |= {len(ids) for ids in found}
    assert len(lengths) > 3


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize("name", BEAMS)
def test_answers_with_beams_are_pythons(host: Host, tmp_path: Path, shown: Any, name: str, beams: int) -> None:
    made = entries(max_batch=10)
    for new in (1, 2, 12):
        expected, found = both(host, tmp_path, shown, made, BEAMS[name], TEXTS, Settings(new, beams=beams))
        assert found == expected


def test_many_texts_with_beams(host: Host, tmp_path: Path, shown: Any) -> None:
    """Beams end at several lengths, and find other answers than greedy ones; settings of beams move them."""
    made, generator = entries(max_batch=12), np.random.default_rng(5)
    texts = [generator.integers(1, 20, generator.integers(1, 9)).tolist() for _ in range(60)]
    many = [shown[number % len(shown)] for number in range(len(texts))]
    greedy, _ = both(host, tmp_path, many, made, {}, texts, Settings(10))
    found = []
    for rules in BEAMS.values():
        expected, again = both(host, tmp_path, many, made, rules, texts, Settings(10, beams=4))
        assert again == expected
        found.append(str(again))
    plain = both(host, tmp_path, many, made, {}, texts, Settings(10, beams=4))[1]
    assert len({len(ids) for ids in plain}) > 3 and sum(a != b for a, b in zip(plain, greedy, strict=True)) > 5
    assert len(set(found)) == len(BEAMS)


def test_the_start_token_counts_as_written(host: Host, tmp_path: Path, shown: Any) -> None:
    """Where no word may come twice, it comes not even once."""
    made, texts = entries(), [[first, second] for first in range(8) for second in range(1, 7)]
    many = [shown[number % len(shown)] for number in range(len(texts))]
    free, _ = both(host, tmp_path, many, made, {}, texts, Settings(1))
    assert [START["decoder_start_token_id"]] in free
    expected, found = both(host, tmp_path, many, made, RULES["words"], texts, Settings(2))
    assert found == expected and not any(START["decoder_start_token_id"] in ids for ids in found)


def test_logits_are_kept_before_the_rules(host: Host, tmp_path: Path, shown: Any) -> None:
    made, most = entries(max_batch=8), 9
    found, _ = written(host, tmp_path, shown, made, {"forced_bos_token_id": 5}, TEXTS, Settings(most))
    logits = np.fromfile(tmp_path / "logits", np.float32).reshape(-1, closed_form.VOCABULARY)
    assert len(logits) == sum(kept for _, _, kept in found)
    begun = 0
    for ids, _, kept in found:
        best = logits[begun : begun + kept, : closed_form.PIECES].argmax(-1).tolist()
        assert ids[0] == 5 != best[0] and np.isfinite(logits[begun]).all()
        assert best[1 : len(ids)] == ids[1:] and (best[len(ids) :] == [2] if kept > len(ids) else kept == most)
        begun += kept


def test_the_image_and_every_token_move_the_answer(host: Host, tmp_path: Path, shown: Any) -> None:
    made = entries(max_batch=8)

    def answers(texts: list[list[int]], seen: Any, beams: int) -> list[list[int]]:
        return [ids for ids, _, _ in written(host, tmp_path, seen, made, {}, texts, Settings(8, beams=beams))[0]]

    for beams in (1, 3):
        first = answers(TEXTS, shown, beams)
        other = answers(TEXTS, [(path, bright + 1) for path, bright in shown], beams)
        assert all(a != b for a, b in zip(first, other, strict=True))
        changed = answers([[5, 4, 9, 1], *TEXTS[1:]], shown, beams)
        assert changed[0] != first[0] and changed[1:] == first[1:]


def said(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (ToolError, Refused) as error:
        return str(error)


@pytest.mark.parametrize(
    ("new", "batch", "beams"),
    [(0, None, 1), (33, None, 1), (32, None, 1), (1, 5, 1), (1, None, 0), (2, 2, 3), (2, None, 4), (2, None, 5)],
)
def test_settings_out_of_range(host: Host, tmp_path: Path, shown: Any, new: int, batch: int | None, beams: int) -> None:
    made, session = entries(), closed_form.ClosedFormSession("delta", [shown[0][1]])
    asked = {"max_new_tokens": new, "batch": batch or 0, "beams": beams}
    manifest = {"family": "memvp-t5", "tokenizer": TOKENIZER, "generation": START}
    expected = said(
        lambda: [
            list(answer.ids)
            for answer in pipeline(made, {}, session).answer(
                requests([[5]], shown), Settings(new, batch=batch, beams=beams)
            )
        ]
    )
    found = said(
        lambda: [
            ids
            for ids, _, _ in host(
                "write", manifest=manifest, texts=[[5]], visual=[shown[0][1]], logits=tmp_path / "x", **made, **asked
            )[0]
        ]
    )
    assert found == expected


def test_beams_of_a_decoder_alone(host: Host, tmp_path: Path) -> None:
    manifest = {"family": "memvp-llama", "generation": {}, "tokenizer": TOKENIZER}
    asked = {"entry": closed_form.entry("delta"), "prompts": [[5]], "visual": [1], "max_new_tokens": 1, "batch": 0}
    with pytest.raises(Refused, match="beams go with models that write after an encoder: leave them out"):
        host("generate", manifest=manifest, logits=tmp_path / "logits", beams=2, **asked)


@pytest.mark.parametrize(
    ("texts", "changed", "message"),
    [
        ([[1], []], {}, "the text of question 1 is empty"),
        ([[1, 21]], {}, "token 21 is not one of the tokenizer's 21"),
        ([[1]], {"generation": None}, "the bundle is of the family memvp-t5, which generates no text"),
        ([[1]], {"generation": {"decoder_start_token_id": 21}}, "generation has decoder_start_token_id = 21, which is"),
        ([[1]], {"generation": {**START, "forced_eos_token_id": -1}}, "forced_eos_token_id = -1, which is no id"),
        ([[1]], {"tokenizer": {**TOKENIZER, "pieces": 24}}, "the tokenizer has 24 pieces, the decoder 23"),
    ],
)
def test_what_cannot_be_written(
    host: Host, tmp_path: Path, shown: Any, texts: Any, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        written(host, tmp_path, shown, entries(), {}, texts, Settings(1), **changed)


def test_an_engine_without_caches_writes_one_token(host: Host, tmp_path: Path, shown: Any) -> None:
    made = entries("concat")
    made["decoder"] |= {
        "cache": None,
        "inputs": [port for port in made["decoder"]["inputs"] if ".decoder." not in port["name"]],
        "outputs": made["decoder"]["outputs"][:1],
        "profiles": made["decoder"]["profiles"][:1],
    }
    with pytest.raises(Refused, match="built for a single pass, without caches: max_new_tokens must be 1"):
        written(host, tmp_path, shown, made, {}, [[5]], Settings(2))
    for beams in (1, 3):
        assert len(written(host, tmp_path, shown, made, {}, [[5, 3]], Settings(1, beams=beams))[0][0][0]) <= 1
