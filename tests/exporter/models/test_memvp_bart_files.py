"""The files of MemVP-BART: the forms they may have, and what is said of those that do not fit."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memvp_export import read_source
from memvp_export.examples.random_apt import random_state
from memvp_export.examples.random_bart import PRESETS, write_source
from memvp_export.examples.random_source import Sizes, adapter_shapes, tower_shapes
from memvp_export.exporter.checkpoints.huggingface_bart import WORDS
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models.bart import LOGITS_BIAS
from memvp_export.exporter.models.family import Model, load
from memvp_export.exporter.models.reference import TorchReference
from safetensors.torch import load_file, save_file

SIZES = PRESETS["odd"]
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bart-files")
    write_source(folder, SIZES)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "source"))


def config(**values: Any) -> Change:
    """Change entries of config.json; None removes one."""

    def change(folder: Path) -> None:
        path = folder / "base" / "config.json"
        data = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    return change


def base(edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    """Change the tensors of the base."""

    def change(folder: Path) -> None:
        path = folder / "base" / "model.safetensors"
        save_file({k: v.contiguous() for k, v in edit(load_file(path)).items()}, path)

    return change


def adapter(**tensors: torch.Tensor | None) -> Change:
    """Change tensors of the adapter; None removes one."""

    def change(folder: Path) -> None:
        path = folder / "memvp.pth"
        state = torch.load(path, weights_only=True) | tensors
        torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)

    return change


def options(lines: str) -> Change:
    def change(folder: Path) -> None:
        with (folder / "model.toml").open("a") as file:
            file.write(lines)

    return change


def read(folder: Path) -> Model:
    return load(read_source(folder))


def values(model: Model) -> dict[str, np.ndarray]:
    return {name: tensor.load().float().numpy() for name, tensor in model.weights.items()}


def same(model: Model, other: Model) -> bool:
    first, second = values(model), values(other)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_what_no_paper_says_follows_from_the_files_and_the_task(written: Path) -> None:
    model = read(written)
    assert model.memory["visual_rows"] == model.memory["table_rows"] == SIZES.rows
    assert (model.memory["scale"], model.memory["lambda"], model.memory["activation"]) == (1.0, 0.01, "gelu")
    assert (model.tokenizer["prefix"], model.tokenizer["maximum"]) == ("vqa: ", 20)
    assert model.generation == {
        "decoder_start_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "no_repeat_ngram_size": 3,
        "early_stopping": True,
        "max_new_tokens": 19,
        "num_beams": 1,
        "max_sequence": SIZES.max_sequence,
    }
    assert not np.any(model.weights[LOGITS_BIAS].load().numpy())


def test_a_gqa_question_has_the_prefix_it_was_trained_with(folder: Path) -> None:
    toml = folder / "model.toml"
    toml.write_text(toml.read_text().replace('task = "vqa"', 'task = "gqa"'))
    assert read(folder).tokenizer["prefix"] == "gpa: "


def test_a_host_may_come_in_several_forms(written: Path, folder: Path) -> None:
    first = read(written)
    path = folder / "base" / "model.safetensors"
    state = load_file(path)
    whole = {f"model.{name}": tensor for name, tensor in state.items()}
    whole |= {"lm_head.weight": whole["model.shared.weight"].clone(), LOGITS_BIAS: torch.zeros(1, SIZES.vocab)}
    del whole["model.shared.weight"]
    save_file(whole, path)
    assert same(read(folder), first)
    path.unlink()
    torch.save(state, folder / "base" / "pytorch_model.bin")
    assert same(read(folder), first)


def test_an_adapter_that_holds_the_host_too_takes_its_place(written: Path, folder: Path) -> None:
    words = torch.randn(SIZES.vocab + 200, SIZES.dim)
    bias = torch.randn(1, SIZES.vocab + 200)
    adapter(**{"model.shared.weight": words, "final_logits_bias": bias, "lm_head.weight": words})(folder)
    model, first = read(folder), values(read(written))
    found = values(model)
    assert model.components[2].vocab == SIZES.vocab + 200 and model.tokenizer["pieces"] == SIZES.vocab
    assert np.array_equal(found.pop(WORDS), words.numpy()) and np.array_equal(found.pop(LOGITS_BIAS), bias.numpy())
    assert all(np.array_equal(found[name], first[name]) for name in found)


def test_rules_are_those_of_the_generation_config_where_there_is_one(folder: Path) -> None:
    rules = {"decoder_start_token_id": 0, "eos_token_id": 2, "min_length": 4}
    (folder / "base" / "generation_config.json").write_text(json.dumps(rules))
    model = read(folder)
    assert model.generation == {
        "decoder_start_token_id": 0,
        "min_length": 4,
        "max_new_tokens": 19,
        "num_beams": 1,
        "max_sequence": SIZES.max_sequence,
    }
    assert "generation_config.json" in [path.name for path in model.files["base"]]


@pytest.mark.parametrize("first", [True, False])
def test_a_config_of_old_transformers_forces_the_last_token_always(folder: Path, first: bool) -> None:
    old = config(forced_bos_token_id=None, forced_eos_token_id=None, force_bos_token_to_be_generated=first)
    config(forced_bos_token_id=None, forced_eos_token_id=None)(folder)
    assert not {"forced_bos_token_id", "forced_eos_token_id"} & read(folder).generation.keys()
    old(folder)
    rules = read(folder).generation
    assert (rules.get("forced_bos_token_id"), rules["forced_eos_token_id"]) == (0 if first else None, 2)


UNFOLLOWED = {
    "guidance_scale": (1.5, 1.0),
    "renormalize_logits": (True, False),
    "num_beam_groups": (5, 1),
    "diversity_penalty": (0.5, 0.0),
    "force_words_ids": ([[4]], []),
    "constraints": ([4], []),
}


def test_rules_that_change_answers_and_are_not_followed_are_refused(folder: Path) -> None:
    for key, (value, nothing) in UNFOLLOWED.items():
        config(**{key: value})(folder)
        with pytest.raises(InputError, match=f"{key} = .*, which is not followed"):
            read(folder)
        config(**{key: nothing})(folder)
    read(folder)


def test_a_model_may_look_at_pixels_through_a_tower(folder: Path) -> None:
    tower = Sizes(dim=SIZES.dim, memory_rows=7, projector_dim=5, tower_blocks=2, patch=4, grid=2, adapter_dim=3)
    torch.save(random_state(tower_shapes(tower), 0), folder / "ViT.pt")
    torch.save(random_state(adapter_shapes(tower), 1), folder / "memvp.pth")
    toml = folder / "model.toml"
    toml.write_text(toml.read_text().replace("[files]\n", '[files]\nvision = "ViT.pt"\n'))
    model = read(folder)
    (port,) = model.components[0].inputs
    assert (port.name, port.dims[1:]) == ("pixel_values", (3, 8, 8)) and model.preprocessing["resize"] == "center-crop"
    assert (model.memory["visual_rows"], model.memory["table_rows"]) == (4, 7)
    session = TorchReference(model.components, model.reference_weights)
    pixels = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    rows = session.run("vision", {"pixel_values": pixels})["visual_memory"]
    assert rows.shape == (2, 4, SIZES.dim) and np.abs(rows[0] - rows[1]).max() > 1e-3
    # Without adapters in the tower, a projector and tables are enough.
    plain = {k: v for k, v in torch.load(folder / "memvp.pth", weights_only=True).items() if "resblocks" not in k}
    torch.save(plain, folder / "memvp.pth")
    assert not any("adapter_mlp" in name for name in read(folder).weights)


def without(*names: str) -> Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def _tokenizer_of_t5(folder: Path) -> None:
    (folder / "spiece.model").write_bytes(b"\xff\xfe")
    toml = folder / "model.toml"
    toml.write_text(re.sub(r"(?m)^tokenizer = .*$", 'tokenizer = "spiece.model"', toml.read_text()))


def test_rows_that_make_no_square_are_noted(folder: Path) -> None:
    assert read(folder).notes == []
    options("visual_rows = 7\n")(folder)
    (note,) = read(folder).notes
    assert "7 visual rows make no square grid" in note


WRONG = {
    "another family": (config(model_type="t5"), "family 't5'; expected 'bart'"),
    "another layout": (config(normalize_before=True), "normalize_before is True; BART's is False"),
    "a head of its own": (config(tie_word_embeddings=False), "tie_word_embeddings is False"),
    "no heads": (config(decoder_attention_heads=None), "no decoder_attention_heads"),
    "heads that do not divide": (config(encoder_attention_heads=7), "7 heads do not divide a width of 80"),
    "another depth": (config(decoder_layers=5), "decoder_layers is 5, the tensors have 2"),
    "another activation": (config(activation_function="tanh"), "activation_function is 'tanh'"),
    "a rule that is not followed": (config(repetition_penalty=1.3), "repetition_penalty = 1.3, which is not followed"),
    "no start": (config(decoder_start_token_id=None), "decoder_start_token_id is missing"),
    "another end": (config(eos_token_id=5), "end with the token 5, the tokenizer ends with 2"),
    "an id beyond the tokenizer": (config(forced_bos_token_id=999), "forced_bos_token_id is 999"),
    "a tensor less": (base(without("decoder.layers.1.fc1.bias")), "missing .* model.decoder.layers.1.fc1.bias"),
    "a tensor more": (base(lambda s: {**s, "encoder.visual_embedding.weight": s["shared.weight"].clone()}), "visual_e"),
    "an adapter of another width": (
        adapter(
            adapter_emb1=torch.zeros(1, 9, 8),
            adapter_emb2=torch.zeros(1, 9, 8),
            **{"adapter_proj.fc2.weight": torch.zeros(8, 14), "adapter_proj.fc2.bias": torch.zeros(8)},
        ),
        "hidden width of 8; .* has 80",
    ),
    "no tables": (adapter(adapter_emb2=None), "no MemVP adapter: it lacks adapter_emb2"),
    "an unknown adapter tensor": (adapter(adapter_gate=torch.zeros(1)), "not expected .* adapter_gate"),
    "an unknown host tensor": (adapter(**{"model.encoder.lora.weight": torch.zeros(1)}), "model.encoder.lora.weight"),
    "an adapter of a wider host": (
        adapter(**{"model.encoder.layers.0.fc1.weight": torch.zeros(90, 80)}),
        r"memvp.pth, beside the base .*base,(.|\n)*fc1.weight is \[90, 80\], needs \[88, 80\]",
    ),
    "an adapter of a deeper host": (
        adapter(**{"decoder.layers.2.fc1.weight": torch.zeros(88, 80)}),
        r"memvp.pth, beside the base (.|\n)*not expected \(1\): model.decoder.layers.2.fc1.weight",
    ),
    "an adapter of wider words": (
        adapter(**{"shared.weight": torch.zeros(300, 81)}),
        r"memvp.pth, beside the base (.|\n)*model.shared.weight is \[300, 81\], needs \[300, 80\]",
    ),
    "tables of another width than the projector's": (
        adapter(adapter_emb1=torch.zeros(1, 9, 79), adapter_emb2=torch.zeros(1, 9, 79)),
        r"adapter_emb1 has rows of 79, and adapter_proj.fc2.weight \[80, 14\] makes others",
    ),
    "no weights": (
        lambda folder: (folder / "base" / "model.safetensors").unlink(),
        r"base holds no weights. It needs model.safetensors, .* or pytorch_model.bin",
    ),
    "the tokenizer of T5": (
        lambda folder: _tokenizer_of_t5(folder),
        r"spiece.model is by its name a sentencepiece model.* Give .*vocab.json",
    ),
    "too many rows": (options("visual_rows = 10\n"), "10 visual rows, the adapter's tables hold 9"),
    "another place": (options('memory_places = "some"\n'), "memory_places is 'some'; it is one of both"),
    "too long a text": (options("text_length = 41\n"), "40 positions, too few for 41"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(folder: Path, name: str) -> None:
    change, message = WRONG[name]
    change(folder)
    with pytest.raises(InputError, match=message):
        read(folder)
