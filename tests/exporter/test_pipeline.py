"""Batched, left-padded, cached generation gives what each row alone gives, and every setting does what it says."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from memvp_export.exporter.data import Answer, Request
from memvp_export.exporter.errors import InputError, VerdictError
from memvp_export.exporter.images import load_image, memvp_preprocessing, preprocess
from memvp_export.exporter.models.clip_tower import TowerConfig
from memvp_export.exporter.models.memvp_llama import Config, components, decoder, vision
from memvp_export.exporter.next_token import next_tokens
from memvp_export.exporter.pipeline import Pipeline
from memvp_export.exporter.settings import Settings
from memvp_export.exporter.text_pipeline import choice_in
from memvp_export.exporter.tokenization import Tokenizer, describe_sentencepiece
from PIL import Image

CORPUS = ["the answer is a red circle", "what colour is the square?", "how many stars are there? (A) one (B) two"]
MAXIMUM = 40


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 10), model_writer=model, vocab_size=60, hard_vocab_limit=False, minloglevel=2
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    picture = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    Image.fromarray(picture // 4).save(folder / "0.png")
    Image.fromarray(255 - picture // 4).save(folder / "1.png")
    return folder


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> Tokenizer:
    entry = {"file": "tokenizer.model", "prefix": "", "maximum": MAXIMUM}
    return Tokenizer(root, {**describe_sentencepiece(root / "tokenizer.model"), **entry})


def configuration(vocab: int, max_sequence: int = MAXIMUM) -> Config:
    return Config(
        tower=TowerConfig(width=64, blocks=2, patch=4, grid=2, adapter_dim=3, adapter_scale=0.1),
        dim=32,
        layers=2,
        heads=2,
        ffn_dim=48,
        vocab=vocab,
        norm_eps=1e-6,
        rope_theta=10000.0,
        projector_dim=8,
        memory_rows=6,
        adapter_scale=0.5,
        visual_scale=2.0,
        max_sequence=max_sequence,
        max_batch=8,
    )


class TorchSession:
    """The PyTorch forward passes on random weights. kind "delta" returns new cache columns alone."""

    def __init__(self, config: Config, kind: str = "concat") -> None:
        self.config, self.kind = config, kind
        self.parts = {part.name: part for part in components(config)}
        self.calls: list[tuple[str, int]] = []
        generator = torch.Generator().manual_seed(3)
        self.weights = {
            name: torch.randn(weight.shape, generator=generator) * 0.3
            + float(len(weight.shape) == 1 and name.endswith("weight"))
            for part in self.parts.values()
            for name, weight in part.weights.items()
        }
        self.weights |= {
            name: torch.from_numpy(value) for part in self.parts.values() for name, value in part.constants.items()
        }

    def run(
        self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None
    ) -> dict[str, np.ndarray]:
        part = self.parts[component]
        for port in part.inputs:
            assert inputs[port.name].dtype == ("int64" if port.dtype == "int64" else "float32"), port.name
            assert len(inputs[port.name].shape) == len(port.dims)
        self.calls.append((component, inputs["input_ids"].shape[1] if component == "decoder" else 0))
        found = part.forward(self.weights, {name: torch.from_numpy(array) for name, array in inputs.items()})
        named = {port.name: array.numpy() for port, array in zip(part.outputs, found, strict=True)}
        if self.kind == "delta" and component == "decoder":
            past = inputs["past_key_values.0.key"].shape[2]
            named |= {name: array[:, :, past:] for name, array in named.items() if name.startswith("present.")}
        return {name: named[name] for name in outputs or named}


def description(
    config: Config, kind: str = "concat", chunk: int | None = None, positions: int | None = None
) -> dict[str, Any]:
    part = components(config)[1]
    ranges = {name: list(limits) for name, limits in part.ranges.items()}
    if chunk:
        ranges["sequence"][1] = chunk
    if positions:
        ranges["positions"][1] = positions
    assert part.cache is not None
    return {
        "inputs": [{"name": p.name, "dtype": p.dtype, "dims": list(p.dims)} for p in part.inputs],
        "outputs": [{"name": p.name, "dtype": p.dtype, "dims": list(p.dims)} for p in part.outputs],
        "ranges": ranges,
        "cache": {"kind": kind, "axis": part.cache.axis, "layers": part.cache.layers},
    }


def pipeline(
    tokenizer: Tokenizer, kind: str = "concat", chunk: int | None = None, positions: int | None = None
) -> Pipeline:
    config = configuration(tokenizer.pieces)
    session = TorchSession(config, kind)
    return Pipeline(session, tokenizer, memvp_preprocessing(8), description(config, kind, chunk, positions))


def alone(session: TorchSession, ids: list[int], image: Path | None, new: int) -> list[int]:
    """One row, unpadded, from position 0, without a cache: everything is computed again at each step."""
    pixels = torch.zeros(1, 3, 8, 8)
    if image:
        pixels = torch.from_numpy(preprocess(load_image(image), memvp_preprocessing(8)))[None]
    memory = vision(session.weights, session.config, pixels, torch.tensor([1.0 if image else 0.0]))
    ids = list(ids)
    for _ in range(new):
        inputs = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
            "position_ids": torch.arange(len(ids))[None],
            "logits_positions": torch.tensor([[len(ids) - 1]]),
            "visual_memory": memory,
        }
        empty = torch.zeros(1, session.config.heads, 0, session.config.head_dim)
        inputs |= {f"past_key_values.{i}.{part}": empty for i in range(2) for part in ("key", "value")}
        ids.append(int(decoder(session.weights, session.config, inputs)[0][0, -1].argmax()))
    return ids[-new:]


def requests(root: Path) -> list[Request]:
    return [
        Request("a", "the answer is", root / "0.png"),
        Request("b", "what colour is the red square?", root / "1.png"),
        Request("c", "how many stars?"),
        Request("d", ""),
        Request("e", "the answer is", root / "1.png"),
    ]


@pytest.mark.parametrize(("kind", "chunk"), [("concat", None), ("delta", None), ("concat", 5), ("delta", 2)])
def test_a_padded_batch_gives_what_each_row_alone_gives(
    root: Path, tokenizer: Tokenizer, kind: str, chunk: int | None
) -> None:
    made = pipeline(tokenizer, kind, chunk)
    session = made._session
    assert isinstance(session, TorchSession)
    answers = made.answer(requests(root), Settings(max_new_tokens=5))
    assert len({len(tokenizer.encode(r.text)) for r in requests(root)}) > 3
    for request, answer in zip(requests(root), answers, strict=True):
        expected = alone(session, tokenizer.encode(request.text), request.image, 5)
        expected = expected[: expected.index(2)] if 2 in expected else expected
        assert (answer.id, list(answer.ids)) == (request.id, expected)
        assert answer.text == tokenizer.decode(expected) and not answer.truncated
    assert len({answer.ids for answer in answers}) == len(answers)
    assert [name for name, _ in session.calls].count("vision") == 1


@pytest.mark.parametrize(("kind", "chunk", "most"), [("concat", None, 2), ("delta", 4, 40), ("delta", 3, 1)])
def test_logits_of_whole_rows_are_the_same_in_chunks_and_a_few_at_a_time(
    tokenizer: Tokenizer, kind: str, chunk: int | None, most: int
) -> None:
    rows = [tokenizer.encode(text) for text in ("the answer is", "what colour is the red square?")]
    whole, made = pipeline(tokenizer), pipeline(tokenizer, kind, chunk, most)
    ids, mask = whole.padded(rows)
    width = ids.shape[1]
    assert width > 8 and mask.sum(1).tolist() == [*map(len, rows)] and mask[:, -1].all()
    positions = np.array([[width - 3, width - 1, width - 1], [1, width // 2, width - 2]])
    visual = np.random.default_rng(0).standard_normal((2, 4, 32)).astype(np.float32)
    found, expected = (each.logits(ids, mask, positions, visual) for each in (made, whole))
    assert found.shape == (2, 3, tokenizer.pieces) and not np.allclose(expected[1, 0], expected[1, 1], atol=1e-2)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    everything = whole.logits(ids, mask, np.tile(np.arange(width), (2, 1)), visual)
    np.testing.assert_allclose(found[1], everything[1, positions[1]], atol=1e-4)


def test_the_image_moves_the_answer(root: Path, tokenizer: Tokenizer) -> None:
    first, second, none = (Request("x", "the answer is", i) for i in (root / "0.png", root / "1.png", None))
    answers = pipeline(tokenizer).answer([first, second, none], Settings(max_new_tokens=6))
    assert len({answer.ids for answer in answers}) == 3


def test_batches_do_not_change_answers(root: Path, tokenizer: Tokenizer) -> None:
    made = pipeline(tokenizer)
    whole = made.answer(requests(root), Settings(max_new_tokens=4))
    assert made.answer(iter(requests(root)), Settings(max_new_tokens=4, batch=2)) == whole
    sizes = [len(batch) for batch in made.batches(requests(root), Settings(batch=2))]
    assert sizes == [2, 2, 1]


def test_sampling_follows_the_seed_and_the_id_but_not_the_batch(root: Path, tokenizer: Tokenizer) -> None:
    made, warm = pipeline(tokenizer), Settings(max_new_tokens=8, temperature=1.5, seed=7)
    whole = made.answer(requests(root), warm)
    assert made.answer(requests(root), Settings(max_new_tokens=8, temperature=1.5, seed=7, batch=1)) == whole
    assert made.answer(requests(root), Settings(max_new_tokens=8, temperature=1.5, seed=8)) != whole
    assert made.answer(requests(root), Settings(max_new_tokens=8)) != whole
    twins = made.answer([Request("1", "the"), Request("2", "the")], warm)
    assert twins[0].ids != twins[1].ids


def test_a_long_prompt_loses_its_tail(root: Path, tokenizer: Tokenizer) -> None:
    made = pipeline(tokenizer)
    session = made._session
    assert isinstance(session, TorchSession)
    text = "the answer is a red circle " * 4
    ids = tokenizer.encode(text)
    assert len(ids) > MAXIMUM
    long, short = made.answer([Request("long", text), Request("short", "the")], Settings(max_new_tokens=3))
    assert long.truncated and not short.truncated
    expected = alone(session, ids[: MAXIMUM - 3], None, 3)
    assert list(long.ids) == (expected[: expected.index(2)] if 2 in expected else expected)
    assert session.calls[1] == ("decoder", MAXIMUM - 3)
    exact = tokenizer.decode(ids[1 : MAXIMUM - 3])
    assert not made.answer([Request("exact", exact)], Settings(max_new_tokens=3))[0].truncated


class Script:
    """A session whose rows say given tokens, whatever they are asked; logits are one-hot."""

    def __init__(self, rows: list[list[int]], vocab: int) -> None:
        self.rows, self.vocab, self.step = rows, vocab, 0

    def run(
        self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None
    ) -> dict[str, np.ndarray]:
        if component == "vision":
            return {"visual_memory": np.zeros((len(self.rows), 4, 32), np.float32)}
        batch, total = inputs["attention_mask"].shape
        logits = np.zeros((batch, 1, self.vocab), np.float32)
        for row, tokens in enumerate(self.rows):
            logits[row, 0, tokens[self.step]] = 9
        self.step += 1
        cache = np.zeros((batch, 2, total, 16), np.float32)
        return {name: logits if name == "logits" else cache for name in outputs or []}


def scripted(tokenizer: Tokenizer, rows: list[list[int]], vocab: int | None = None) -> Pipeline:
    size = vocab or tokenizer.pieces
    return Pipeline(Script(rows, size), tokenizer, memvp_preprocessing(8), description(configuration(size)))


def test_answers_end_at_the_first_eos(tokenizer: Tokenizer) -> None:
    red, blue, eos = tokenizer.encode("red")[-1], tokenizer.encode("colour")[-1], tokenizer.eos
    made = scripted(tokenizer, [[red, eos, blue, eos], [red, blue, red, blue]])
    first, second = made.answer([Request("1", "a"), Request("2", "the red")], Settings(max_new_tokens=4))
    assert first.ids == (red,) and second.ids == (red, blue, red, blue)


def test_generation_stops_when_every_row_ended(tokenizer: Tokenizer) -> None:
    made = scripted(tokenizer, [[5, 2, 7], [2, 6, 7]])
    assert [a.ids for a in made.answer([Request("1", ""), Request("2", "")], Settings(max_new_tokens=9))] == [(5,), ()]
    assert isinstance(made._session, Script) and made._session.step == 2


def test_a_token_the_tokenizer_lacks_is_never_chosen(tokenizer: Tokenizer) -> None:
    made = scripted(tokenizer, [[tokenizer.pieces + 1]], tokenizer.pieces + 5)
    assert made.answer([Request("1", "the")], Settings())[0].ids == (0,)


def test_score_reads_the_choice(tokenizer: Tokenizer) -> None:
    b = tokenizer.encode("(B")[-1]
    assert "B" in tokenizer.decode([b])
    made = scripted(tokenizer, [[b], [b]])
    two, one = made.score([Request("2", "x", choices=("u", "v")), Request("1", "x", choices=("u",))])
    assert (two.choice, one.choice) == (1, -1)
    with pytest.raises(InputError, match="no choices"):
        made.score([Request("3", "x")])
    with pytest.raises(InputError, match="'4' has 27 choices; answers by letter know 26"):
        made.score([Request("4", "x", choices=tuple(map(str, range(27))))])


@pytest.mark.parametrize(
    ("text", "choices", "index"),
    [("B", 4, 1), (" C.", 3, 2), ("C", 2, -1), ("", 5, -1), ("b", 3, -1), ("the A or B", 2, 0), ("Z A", 5, -1)],
)
def test_choices(text: str, choices: int, index: int) -> None:
    assert choice_in(text, choices) == index


def shares(settings: Settings, draws: int = 4000) -> np.ndarray:
    logits = np.log(np.array([[0.5, 0.1, 0.3, 0.1]], np.float32))
    generators = [np.random.default_rng(i) for i in range(draws)]
    found = next_tokens(np.repeat(logits, draws, 0), settings, generators)
    return np.bincount(found, minlength=4) / draws


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(temperature=0), [1, 0, 0, 0]),
        (Settings(temperature=1), [0.5, 0.1, 0.3, 0.1]),
        (Settings(temperature=0.5), np.array([25, 1, 9, 1]) / 36),
        (Settings(temperature=1e-9), [1, 0, 0, 0]),
        (Settings(temperature=1, top_p=0.7), [0.625, 0, 0.375, 0]),
        (Settings(temperature=1, top_p=0.4), [1, 0, 0, 0]),
    ],
    ids=str,
)
def test_the_distribution_drawn_from(settings: Settings, expected: Any) -> None:
    np.testing.assert_allclose(shares(settings), expected, atol=0.03)


def test_logits_that_are_not_finite_are_a_verdict() -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(VerdictError, match="finite"):
            next_tokens(np.array([[0, bad]], np.float32), Settings(), [])


@pytest.mark.parametrize(
    "values",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"batch": 0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        Settings(**values)


def test_what_does_not_fit_is_refused(root: Path, tokenizer: Tokenizer) -> None:
    made = pipeline(tokenizer)
    with pytest.raises(InputError, match="at most 8"):
        made.answer(requests(root), Settings(batch=9))
    with pytest.raises(InputError, match=r"1 with 9 beams each; .* 8 rows: give --beams 8 or fewer, .* --max-batch 9"):
        made.answer(requests(root), Settings(beams=9))
    with pytest.raises(InputError, match="beams go with models that write after an encoder"):
        made.answer(requests(root), Settings(beams=2))
    with pytest.raises(InputError, match="40 tokens"):
        made.answer(requests(root), Settings(max_new_tokens=MAXIMUM))
    with pytest.raises(InputError, match="two images"):
        made.answer([Request("x", "", root / "0.png", root / "1.png")])
    with pytest.raises(InputError, match="do not belong together"):
        Pipeline(made._session, tokenizer, memvp_preprocessing(8), description(configuration(9)))
    with pytest.raises(InputError, match="crop"):
        Pipeline(made._session, tokenizer, {"crop": 1}, description(configuration(tokenizer.pieces)))


def test_a_single_pass_decoder_answers_with_one_token(tokenizer: Tokenizer) -> None:
    whole = description(configuration(tokenizer.pieces))
    plain = {**whole, "inputs": whole["inputs"][:5], "outputs": whole["outputs"][:1], "cache": None}
    made = Pipeline(Script([[5]], tokenizer.pieces), tokenizer, memvp_preprocessing(8), plain)
    assert made.answer([Request("1", "the")], Settings())[0].ids == (5,)
    with pytest.raises(InputError, match="single pass"):
        made.answer([Request("1", "the")], Settings(max_new_tokens=2))


def test_from_manifest(root: Path, tokenizer: Tokenizer) -> None:
    config = configuration(tokenizer.pieces)
    entry = {"file": "tokenizer.model", "prefix": "the ", "maximum": MAXIMUM}
    manifest: dict[str, Any] = {
        "family": "memvp-llama",
        "precision": "fp32",
        "preprocessing": memvp_preprocessing(8),
        "tokenizer": {**describe_sentencepiece(root / "tokenizer.model"), **entry},
        "generation": {"max_new_tokens": 3, "max_sequence": MAXIMUM},
        "components": {"decoder": description(config)},
    }
    made = Pipeline.from_manifest(TorchSession(config), manifest, root)
    assert made.max_sequence == MAXIMUM and made.defaults.max_new_tokens == 3
    plain: list[Answer] = pipeline(tokenizer).answer([Request("1", "the red")], Settings(max_new_tokens=3))
    assert made.answer([Request("1", "red")]) == plain
    with pytest.raises(InputError, match="apt-vilt"):
        Pipeline.from_manifest(TorchSession(config), {**manifest, "family": "apt-vilt", "generation": None}, root)
