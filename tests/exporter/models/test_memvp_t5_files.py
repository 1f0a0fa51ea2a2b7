"""The files of MemVP-T5: what is read, what takes its place, and what is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from memvp_export import read_source
from memvp_export.examples.random_t5 import PRESETS, write_source
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models import t5
from memvp_export.exporter.models.family import Model, load
from memvp_export.exporter.parity.sample_requests import chosen_requests, needs_of
from safetensors.torch import load_file, save_file
from torch import Tensor

SIZES = PRESETS["odd"]
FIRST = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
BACK = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5-files")
    write_source(folder, SIZES)
    return folder


@pytest.fixture
def source(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "source"))


def loaded(folder: Path) -> Model:
    return load(read_source(folder))


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "base/model.safetensors")


def save(folder: Path, state: dict[str, Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "base/model.safetensors")


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "base/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_everything_is_read_from_its_place(source: Path) -> None:
    model, state = loaded(source), tensors(source)
    host = model.config.host
    assert (host.dim, host.encoder_layers, host.decoder_layers, host.heads, host.head_dim) == (60, 1, 2, 5, 16)
    assert (host.ffn_dim, host.vocab, host.max_distance, host.eps) == (88, 150, 12, 1e-6)
    assert model.tokenizer["pieces"] == SIZES.pieces and model.tokenizer["prefix"] == "vqa: "
    assert {"decoder_start_token_id": 0, "max_new_tokens": 19}.items() <= model.generation.items()
    # All that is read is in the graphs, the tables of distances in another form.
    for name, tensor in state.items():
        assert name in t5.BUCKETS.values() or torch.equal(model.weights[name].load(), tensor)
    for side, name in t5.BUCKETS.items():
        expected = t5.by_distance(state[name], SIZES.max_distance, side)
        assert torch.equal(model.weights[t5.TABLES[side]].load(), expected)
    assert {path.name for paths in model.files.values() for path in paths} == {
        *("config.json", "model.safetensors", "memvp.pth", "spiece.model")
    }


def test_defaults_are_those_of_the_first_files(source: Path) -> None:
    path = source / "base/config.json"
    config = json.loads(path.read_text())
    for key in ("num_decoder_layers", "relative_attention_max_distance", "layer_norm_epsilon", "d_kv"):
        del config[key]
    path.write_text(json.dumps(config))
    host = loaded(source).config.host
    assert host.max_distance == 128 and host.eps == 1e-6 and host.head_dim == 16


def test_words_may_have_another_name_and_weights_another_file(source: Path) -> None:
    state = tensors(source)
    words = state.pop("shared.weight")
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    (source / "base/model.safetensors").unlink()
    torch.save({**state, "lm_head.weight": words, unread: state[BACK]}, source / "base/pytorch_model.bin")
    assert torch.equal(loaded(source).weights["shared.weight"].load(), words)


def test_a_state_dict_of_the_whole_model_takes_the_place_of_the_base(source: Path) -> None:
    adapter, state = torch.load(source / "memvp.pth", weights_only=True), tensors(source)
    words = torch.cat([state["shared.weight"], torch.ones(7, SIZES.dim)])
    trained = {**adapter, **state, "shared.weight": words, "lm_head.weight": words, BACK: state[BACK] + 1}
    torch.save(trained, source / "memvp.pth")
    model = loaded(source)
    assert model.config.host.vocab == SIZES.vocab + 7
    table = t5.by_distance(state[BACK] + 1, SIZES.max_distance, "decoder")
    assert torch.equal(model.weights[t5.TABLES["decoder"]].load(), table)


def test_a_state_dict_of_another_model_is_named_as_such(source: Path) -> None:
    adapter = torch.load(source / "memvp.pth", weights_only=True)
    torch.save({**adapter, BACK: torch.zeros(6, SIZES.heads)}, source / "memvp.pth")
    with pytest.raises(InputError, match=r"memvp.pth, beside the base (.|\n)*bias.weight is \[6, 5\], needs \[8, 5\]"):
        loaded(source)


def test_captions_are_longer_and_searched_with_five_beams(source: Path) -> None:
    toml = source / "model.toml"
    toml.write_text(toml.read_text().replace('"vqa"', '"caption"').replace("max_sequence = 26", "max_sequence = 40"))
    edit_config(source, length_penalty=2, early_stopping=True)
    model = loaded(source)
    assert (model.tokenizer["prefix"], model.tokenizer["maximum"]) == ("caption: ", 40)
    said = {"max_new_tokens": 39, "num_beams": 5, "length_penalty": 2.0, "early_stopping": True}
    assert said.items() <= model.generation.items()
    # Its golden samples have an image whose text is the prefix alone, as in training.
    request, pictures = chosen_requests(None, needs_of(model.components, None, model.task))[0]
    assert request.text == "" and pictures[0] is not None
    toml.write_text(toml.read_text().replace("max_batch = 8", "max_batch = 4"))
    with pytest.raises(InputError, match="max_batch is 4: the rows of 5 beams"):
        loaded(source)


Edit = Callable[[Path], None]


def changed(**changes: object) -> Edit:
    return lambda folder: edit_config(folder, **changes)


def state_changed(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Edit:
    return lambda folder: save(folder, change(tensors(folder)))


REFUSED: dict[str, tuple[Edit, str]] = {
    "v1.1": (changed(feed_forward_proj="gated-gelu"), "feed_forward_proj is 'gated-gelu'.*v1.0"),
    "two matrices": (changed(tie_word_embeddings=False), "tie_word_embeddings"),
    "another family": (changed(model_type="bart"), "expected 't5'"),
    "other sizes": (changed(d_kv=15, num_heads=4), "num_heads is 4.*d_kv is 15, the tensors have 16"),
    "other buckets": (changed(relative_attention_num_buckets=32), "num_buckets is 32, the tensors have 8"),
    "near": (changed(relative_attention_max_distance=4), "8 buckets do not reach .* 4"),
    "far": (changed(relative_attention_max_distance=1 << 20), "8 buckets do not reach"),
    "no start": (changed(decoder_start_token_id=None), "decoder_start_token_id is missing"),
    "start beyond the pieces": (changed(decoder_start_token_id=130), "130, beyond the 120"),
    "another end": (changed(eos_token_id=2), "end with the token 2"),
    "a penalty that is none": (changed(length_penalty="long"), "length_penalty is 'long'"),
    "an end that is none": (changed(early_stopping=1), "early_stopping is 1"),
    "missing": (state_changed(lambda s: {k: v for k, v in s.items() if "decoder.block.1" not in k}), "num_decoder"),
    "missing one": (
        state_changed(lambda s: {k: v for k, v in s.items() if not k.endswith("block.1.layer.2.layer_norm.weight")}),
        r"missing \(1\): decoder.block.1.layer.2.layer_norm.weight",
    ),
    "no table": (state_changed(lambda s: {k: v for k, v in s.items() if k != BACK}), "lacks decoder.block.0.*bias"),
    "tables apart": (state_changed(lambda s: s | {BACK: torch.zeros(6, 5)}), r"\[8, 5\] and \[6, 5\]"),
    "unknown": (state_changed(lambda s: s | {"encoder.extra.weight": torch.ones(2)}), "not expected.*encoder.extra"),
}


@pytest.mark.parametrize(("edit", "words"), REFUSED.values(), ids=list(REFUSED))
def test_what_does_not_fit_is_refused(source: Path, edit: Edit, words: str) -> None:
    edit(source)
    with pytest.raises(InputError, match=words):
        loaded(source)


def test_the_tokenizer_may_be_a_folder(source: Path) -> None:
    toml = source / "model.toml"
    toml.write_text(toml.read_text().replace("base/spiece.model", "base"))
    assert loaded(source).tokenizer_files == {"file": source / "base/spiece.model"}
    (source / "base/spiece.model").unlink()
    with pytest.raises(InputError, match=r"base is a folder that holds no spiece\.model, T5.s tokenizer"):
        loaded(source)


def test_another_tokenizer_is_refused(source: Path) -> None:
    from memvp_export.examples.random_source import train_tokenizer

    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    train_tokenizer(source / "base/spiece.model", 160, model_type="unigram", byte_fallback=False, **ids)
    with pytest.raises(InputError, match=r"160 pieces.*embeds 150"):
        loaded(source)
