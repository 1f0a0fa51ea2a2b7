"""The official files of APT-METER: what is read, what is chosen, and how what is wrong is said."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memvp_export.examples.random_apt import CHECKPOINT, save_lightning
from memvp_export.examples.random_meter import PRESETS, official_shapes, write_source, write_vocabulary
from memvp_export.exporter.checkpoints.source import read_source, source_from_flags
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models.apt_meter import sites
from memvp_export.exporter.models.family import Model, load

SIZES = replace(PRESETS["odd"], layers=1)
SITE = "cross_modal_text_layers.0.attention.output"
Change = Callable[[dict[str, torch.Tensor]], Any]


def make(folder: Path, task: str = "vqa", change: Change | None = None, **config: object) -> Path:
    write_source(folder, SIZES, task)
    if change or config:
        state = {name: torch.ones(shape) for name, shape in official_shapes(SIZES, task).items()}
        if change:
            change(state)
        save_lightning(folder / CHECKPOINT, state, {"num_heads": SIZES.heads, "max_text_len": 14, **config})
    return folder


def read(folder: Path, **options: Any) -> Model:
    source = read_source(folder)
    return load(replace(source, options=source.options | options))


def test_sizes_come_from_the_tensors(tmp_path: Path) -> None:
    model = read(make(tmp_path))
    config, text, tower = model.config, model.config.text, model.config.tower
    assert (config.dim, config.layers, config.heads, config.ffn_dim, config.prompt_rows) == (96, 1, 6, 160, 21)
    assert (text.dim, text.layers, text.heads, text.ffn_dim, text.vocab, text.positions) == (128, 2, 2, 144, 290, 18)
    assert (tower.width, tower.blocks, tower.patch, tower.grid, tower.image_size) == (64, 3, 16, 3, 48)
    assert (config.classes, config.token_types, model.memory["rank"], model.memory["table_rows"]) == (37, 2, 3, 21)
    assert model.generation is None and model.labels is not None and model.labels[36] == "answer 36"
    assert model.preprocessing["resize"] == "center-crop" and model.preprocessing["height"] == 48
    assert model.tokenizer["type"] == "byte-bpe" and model.tokenizer["maximum"] == 14
    assert model.tokenizer["prefix"] == "" and not model.notes
    assert set(model.tokenizer_files) == {"file", "merges"}
    assert [path.name for path in model.files["tokenizer"]] == ["vocab.json", "merges.txt"]


def test_patches_of_32_and_the_number_of_prompts_are_the_files_own(tmp_path: Path) -> None:
    write_source(tmp_path, replace(PRESETS["wide-patches"], prompt_rows=200, rank=2))
    model = read(tmp_path)
    (part,) = model.components
    assert part.weights["visual.conv1.weight"].shape == (128, 3, 32, 32)
    assert {part.weights[f"{site}.APT.keys"].shape for site in sites(model.config)} == {(200, 64)}
    assert model.memory["rank"] == 2


def test_both_names_of_the_scalar_mean_the_same(tmp_path: Path) -> None:
    found = []
    for name in ("scale", "weight"):
        write_source(tmp_path / name, SIZES, scalar=name)
        found.append(read(tmp_path / name).weights[f"{SITE}.dense.weight"].load())
    assert torch.equal(*found)


def test_a_rank_output_is_as_wide_as_both_streams(tmp_path: Path) -> None:
    """Its layer was declared with half of that, and its tensor replaced later."""
    model = read(make(tmp_path, "irtr"))
    assert model.components[0].weights["rank_output.weight"].shape == (1, 2 * SIZES.dim)
    narrow = torch.ones(1, SIZES.dim)
    with pytest.raises(InputError, match=r"rank_output.weight is \[1, 96\], needs \[1, 192\]"):
        read(make(tmp_path, "irtr", lambda state: state.update({"rank_output.weight": narrow})))


def test_the_second_image_has_the_third_token_type(tmp_path: Path) -> None:
    model = read(make(tmp_path, "nlvr2"))
    parts = model.reference_weights
    types, bias = (parts[name].load() for name in ("token_type_embeddings.weight", "cross_modal_image_transform.bias"))
    assert types.shape == (3, SIZES.dim) and model.labels == ["False", "True"]
    shifts = model.weights["cross_modal_image_transform.shifts"].load()
    np.testing.assert_allclose(shifts, bias + types[1:], rtol=1e-6, atol=1e-7)
    two = "token_type_embeddings.weight"
    with pytest.raises(InputError, match="nlvr2 needs a third token type for the second image, there are 2"):
        read(make(tmp_path / "two", "nlvr2", lambda state: state.update({two: state[two][:2]})))


def test_a_folded_tensor_equals_its_parts_to_rounding(tmp_path: Path) -> None:
    model = read(make(tmp_path))
    own, parts = model.weights, {name: tensor.load() for name, tensor in model.reference_weights.items()}
    types, table = parts["token_type_embeddings.weight"], "text_transformer.embeddings"
    expected = {
        f"{table}.positions": parts[f"{table}.position_embeddings.weight"]
        + parts[f"{table}.token_type_embeddings.weight"][0],
        "cross_modal_text_transform.shift": parts["cross_modal_text_transform.bias"] + types[0],
        "cross_modal_text_transform.start": parts["token4classifier"] + types[0],
        "cross_modal_image_transform.shifts": parts["cross_modal_image_transform.bias"] + types[1:2],
    }
    for site in sites(model.config):
        tokens, first, second = (parts[f"{site}.APT.{leaf}"] for leaf in ("mm_tokens", "mm.0.weight", "mm.1.weight"))
        factor = parts[f"{site}.APT.scale"].exp()
        expected |= {
            f"{site}.APT.keys": tokens + (tokens @ first.T) @ second.T,
            f"{site}.APT.values": factor * tokens,
            f"{site}.dense.weight": factor * parts[f"{site}.dense.weight"],
            f"{site}.dense.bias": factor * parts[f"{site}.dense.bias"],
        }
    assert expected.keys() | parts.keys() >= own.keys()
    for name, tensor in expected.items():
        loaded = own[name].load()
        assert own[name].shape == tuple(loaded.shape) == tuple(tensor.shape), name
        np.testing.assert_allclose(loaded, tensor, rtol=2e-6, atol=2e-6, err_msg=name)


def test_another_image_size_interpolates_the_positions(tmp_path: Path) -> None:
    folder = make(tmp_path)
    own, other = read(folder), read(folder, image_size=80)
    assert other.config.tower.grid == 5 and other.preprocessing["height"] == 80
    assert other.notes == [
        "image positions are interpolated from 3 x 3 to 5 x 5: the checkpoint was trained with images of 48 x 48 pixels"
    ]
    name = "visual.positional_embedding"
    before, after = own.weights[name].load(), other.weights[name].load()
    assert after.shape == (26, 64) == other.reference_weights[name].shape
    assert torch.equal(after[0], before[0]) and torch.equal(after[13], before[5]), "the middle stays"
    with pytest.raises(InputError, match="image_size is 50; it must be a multiple of the patch, 16"):
        read(folder, image_size=50)


def test_the_longest_text_is_the_trained_one_or_the_papers(tmp_path: Path) -> None:
    folder = make(tmp_path)
    assert read(folder, text_length=9).tokenizer["maximum"] == 9
    with pytest.raises(InputError, match="text_length is 17; this RoBERTa takes 2 to 16 tokens"):
        read(folder, text_length=17)
    state = {name: torch.ones(shape) for name, shape in official_shapes(SIZES, "vqa").items()}
    torch.save(state, folder / CHECKPOINT)
    assert read(folder, heads=6).tokenizer["maximum"] == 16
    sizes = replace(SIZES, positions=80)
    for task, longest in (("vqa", 50), ("irtr", 40)):
        write_source(tmp_path / task, sizes, task)
        state = {name: torch.ones(shape) for name, shape in official_shapes(sizes, task).items()}
        torch.save(state, tmp_path / task / CHECKPOINT)
        assert read(tmp_path / task, heads=6).config.text.length == longest


def test_notes_say_that_labels_are_missing(tmp_path: Path) -> None:
    toml = make(tmp_path) / "model.toml"
    toml.write_text(toml.read_text().replace('labels = "answers.json"\n', ""))
    model = read(tmp_path)
    assert model.labels is None and ["no labels" in note for note in model.notes] == [True]


BAD: dict[str, tuple[Change, str]] = {
    "no prompts": (
        lambda state: [state.pop(name) for name in list(state) if ".APT." in name],
        "holds no prompts of APT .*, not the METER it started from",
    ),
    "one tensor less": (lambda state: state.pop("token4classifier"), r"missing \(1\): token4classifier"),
    "one more": (lambda state: state.update(extra=torch.ones(1)), r"not expected \(1\): extra"),
    "a prompt of another shape": (
        lambda state: state.update({f"{SITE}.APT.mm_tokens": torch.ones(4, 96)}),
        r"APT.mm_tokens is \[21, 96\], needs \[4, 96\]",
    ),
    "no tower": (
        lambda state: [state.pop(name) for name in list(state) if name.startswith("vit_model")],
        "is of no APT-METER: it lacks vit_model.visual.conv1.weight",
    ),
    "no square grid": (
        lambda state: state.update({"vit_model.visual.positional_embedding": torch.ones(9, 64)}),
        "no CLIP ViT",
    ),
    "no heads of 64": (
        lambda state: state.update({"text_transformer.embeddings.word_embeddings.weight": torch.ones(290, 96)}),
        "a RoBERTa of width 96 has no heads of 64",
    ),
    "another task": (
        lambda state: (
            [state.pop(name) for name in list(state) if name.startswith("vqa_classifier")]
            and state.update({"nlvr2_classifier.0.weight": torch.ones(1, 96)})
        ),
        "lacks the head of the task vqa: it has those of nlvr2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_checkpoints_are_refused_by_name(tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    with pytest.raises(InputError, match=message):
        read(make(tmp_path, "vqa", change))


def test_another_models_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path)
    write_vocabulary(folder / "roberta", 280)
    with pytest.raises(InputError, match=r"has 280 pieces, the model in .* embeds 290"):
        read(folder)
    write_vocabulary(folder / "roberta", 290)
    path = folder / "roberta" / "vocab.json"
    path.write_text(path.read_text().replace('"<s>": 0, "<pad>": 1', '"<s>": 1, "<pad>": 0'))
    with pytest.raises(InputError, match="pads with 0; RoBERTa counts positions by padding with 1"):
        read(folder)


def test_flags_take_the_files_place(tmp_path: Path) -> None:
    folder = make(tmp_path, "irtr")
    files = {"checkpoint": str(folder / CHECKPOINT), "tokenizer": str(folder / "roberta")}
    source = source_from_flags("apt-meter", "irtr", files, {"image_size": "64", "max_batch": "4"})
    model = load(source)
    assert model.config.tower.image_size == 64 and model.components[0].ranges["batch"] == (1, 4)
    assert "labels" not in source.files and model.labels is None
