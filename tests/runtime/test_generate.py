"""Greedy generation is the Python pipeline's: the same tokens, logits and calls, over a decoder in closed form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.data import Request
from memvp_export.exporter.engines.shapes import built_ranges
from memvp_export.exporter.errors import ToolError
from memvp_export.exporter.images import memvp_preprocessing
from memvp_export.exporter.pipeline import Pipeline
from memvp_export.exporter.settings import Settings

from . import closed_form
from .conftest import Refused

Host = Callable[..., Any]
PROMPTS = [[5, 3, 9], [1], [4, 4, 8, 1, 7, 20, 11], [6, 2, 6, 10]]
VISUAL = [3, 0, 8, 1]
MANIFEST = {
    "family": "memvp-llama",
    "generation": {},
    "tokenizer": {"eos": 2, "pad": 0, "maximum": 32, "pieces": closed_form.PIECES},
}


def pipeline(entry: dict[str, Any], session: closed_form.ClosedFormSession, maximum: int = 32) -> Pipeline:
    described = {**entry, "ranges": built_ranges(entry)}
    return Pipeline(session, closed_form.IdTokenizer(maximum), memvp_preprocessing(4), described)  # type: ignore[arg-type]


def texts(prompts: list[list[int]]) -> list[Request]:
    return [Request(str(number), " ".join(map(str, prompt))) for number, prompt in enumerate(prompts)]


def generated(host: Host, entry: dict[str, Any], folder: Path, prompts: list[list[int]], new: int, **more: Any) -> Any:
    asked = {"manifest": MANIFEST, "entry": entry, "visual": VISUAL, "batch": 0, **more}
    return host("generate", prompts=prompts, max_new_tokens=new, logits=folder / "logits", **asked)


@pytest.mark.parametrize("kind", ["concat", "delta", "in_place"])
@pytest.mark.parametrize("new", [1, 2, 9, 25, 30])
def test_tokens_and_calls_are_pythons(host: Host, tmp_path: Path, kind: str, new: int) -> None:
    entry = closed_form.entry(kind)
    session = closed_form.ClosedFormSession(kind, VISUAL)
    answers = pipeline(entry, session).answer(texts(PROMPTS), Settings(max_new_tokens=new))
    found, calls = generated(host, entry, tmp_path, PROMPTS, new)
    assert [ids for ids, _, _ in found] == [list(answer.ids) for answer in answers]
    assert [cut for _, cut, _ in found] == [answer.truncated for answer in answers]
    assert calls == session.calls


def test_rows_end_at_their_own_end_of_sentence(host: Host, tmp_path: Path) -> None:
    """Somewhere among many prompts a row ends early, beside others that go on."""
    entry, lengths = closed_form.entry("delta"), set()
    for start in range(12):
        prompts = [[start + 1], [start, 3], [7, start], [start, start]]
        session = closed_form.ClosedFormSession("delta", VISUAL)
        answers = pipeline(entry, session).answer(texts(prompts), Settings(max_new_tokens=12))
        found, calls = generated(host, entry, tmp_path, prompts, 12)
        assert [ids for ids, _, _ in found] == [list(answer.ids) for answer in answers] and calls == session.calls
        lengths |= {len(ids) for ids, _, _ in found}
    assert 12 in lengths and len(lengths) > 3


def test_logits_are_kept_up_to_the_end_of_each_row(host: Host, tmp_path: Path) -> None:
    entry, most = closed_form.entry("concat"), 12
    found, _ = generated(host, entry, tmp_path, PROMPTS, most)
    logits = np.fromfile(tmp_path / "logits", np.float32).reshape(-1, closed_form.VOCABULARY)
    assert len(logits) == sum(kept for _, _, kept in found)
    begun = 0
    for ids, _, kept in found:
        best = logits[begun : begun + kept, : closed_form.PIECES].argmax(-1).tolist()
        assert best[: len(ids)] == ids and (best[len(ids) :] == [2] if kept > len(ids) else kept == most)
        begun += kept


def test_the_image_and_every_token_move_the_answer(host: Host, tmp_path: Path) -> None:
    entry = closed_form.entry("delta")
    first, _ = generated(host, entry, tmp_path, PROMPTS, 8)
    other, _ = generated(host, entry, tmp_path, PROMPTS, 8, visual=[4, 1, 9, 2])
    assert all(a[0] != b[0] for a, b in zip(first, other, strict=True))
    changed, _ = generated(host, entry, tmp_path, [[5, 4, 9], *PROMPTS[1:]], 8)
    assert changed[0] != first[0] and changed[1:] == first[1:]


@pytest.mark.parametrize("positions", [[[0, 2, 3], [6, 6, 1]], [[18, 0, 17], [3, 16, 2]]])
@pytest.mark.parametrize("kind", ["concat", "delta"])
def test_logits_of_columns(host: Host, tmp_path: Path, kind: str, positions: list[list[int]]) -> None:
    """More than one call gives at once, over more than one piece of a prompt."""
    entry = closed_form.entry(kind, chunk=8, positions=2)
    prompts = [list(range(1, 20)), [9, 8, 7]]
    session = closed_form.ClosedFormSession(kind, VISUAL)
    python = pipeline(entry, session)
    visual = np.array(VISUAL[:2], np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    expected = python.logits(*python.padded(prompts), np.array(positions), visual)
    flat = [column for row in positions for column in row]
    asked = {"manifest": MANIFEST, "entry": entry, "visual": VISUAL, "prompts": prompts, "positions": flat}
    calls = host("column logits", logits=tmp_path / "logits", **asked)
    found = np.fromfile(tmp_path / "logits", np.float32).reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)
    assert calls == session.calls and len(calls) > 2


def said(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (ToolError, Refused) as error:
        return str(error)


@pytest.mark.parametrize(("new", "batch"), [(0, None), (32, None), (31, None), (1, 5), (-1, None)])
def test_settings_out_of_range(host: Host, tmp_path: Path, new: int, batch: int | None) -> None:
    entry = closed_form.entry("delta")
    session = closed_form.ClosedFormSession("delta", VISUAL)
    expected = said(
        lambda: [
            list(answer.ids)
            for answer in pipeline(entry, session).answer(texts([[5]]), Settings(max_new_tokens=new, batch=batch))
        ]
    )
    found = said(lambda: [ids for ids, _, _ in generated(host, entry, tmp_path, [[5]], new, batch=batch or 0)[0]])
    assert found == expected


def test_an_engine_without_caches_writes_one_token(host: Host, tmp_path: Path) -> None:
    entry = closed_form.entry("concat")
    entry |= {
        "cache": None,
        "inputs": [port for port in entry["inputs"] if "past" not in port["name"]],
        "outputs": entry["outputs"][:1],
        "profiles": entry["profiles"][:1],
    }
    with pytest.raises(Refused, match="built for a single pass, without caches: max_new_tokens must be 1"):
        generated(host, entry, tmp_path, [[5]], 2)
    assert len(generated(host, entry, tmp_path, [[5, 3]], 1)[0][0][0]) <= 1


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1], []], "question 1 is empty"),
        ([[1, 21]], "token 21 is not one of the tokenizer's 21"),
        ([[-1]], "token -1"),
    ],
)
def test_prompts_that_cannot_be_run(host: Host, tmp_path: Path, prompts: list[list[int]], message: str) -> None:
    entry = closed_form.entry("delta")
    with pytest.raises(Refused, match=message):
        generated(host, entry, tmp_path, prompts, 1)


@pytest.mark.parametrize(("axis", "name"), [(0, "batch"), (1, "sequence")])
def test_an_engine_that_takes_nothing(host: Host, tmp_path: Path, axis: int, name: str) -> None:
    entry = closed_form.entry("delta")
    for profile in entry["profiles"]:
        for point in ("min", "max"):
            profile["shapes"]["input_ids"][point][axis] = 0
    with pytest.raises(Refused, match=f"the engine of decoder takes at most 0 of {name}: build it again"):
        generated(host, entry, tmp_path, [[1]], 1)


def test_logits_of_ids_that_there_are_not(host: Host, tmp_path: Path) -> None:
    asked = {"manifest": MANIFEST, "entry": closed_form.entry("delta"), "visual": VISUAL, "positions": [0]}
    with pytest.raises(Refused, match="token 21 is not one of the tokenizer's 21"):
        host("column logits", logits=tmp_path / "logits", prompts=[[1, 21]], **asked)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"generation": None}, "the bundle is of the family memvp-llama, which generates no text."),
        ({"tokenizer": {"eos": 2, "pad": 0}}, "the manifest's tokenizer lacks maximum."),
        ({"tokenizer": {**MANIFEST["tokenizer"], "pieces": 24}}, "the tokenizer has 24 pieces, the decoder 23"),
        ({"tokenizer": {**MANIFEST["tokenizer"], "eos": 21}}, "has eos = 21, which is no id of its 21."),
        ({"tokenizer": {**MANIFEST["tokenizer"], "pad": None}}, "has pad = None, which is no id of its 21."),
    ],
)
def test_a_tokenizer_that_does_not_fit(host: Host, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        generated(host, closed_form.entry("delta"), tmp_path, [[1]], 1, manifest={**MANIFEST, **changed})
