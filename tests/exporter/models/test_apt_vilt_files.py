"""The official files of APT-ViLT: what is read, what is chosen, and how what is wrong is said."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memvp_export.examples.random_apt import CHECKPOINT, save_lightning
from memvp_export.examples.random_vilt import PRESETS, official_shapes, write_source
from memvp_export.exporter.checkpoints.lightning import read_lightning
from memvp_export.exporter.checkpoints.source import read_source, source_from_flags
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models.apt_vilt_files import RELEASED_PREFIX
from memvp_export.exporter.models.family import Model, load

SIZES = replace(PRESETS["odd"], blocks=1)
Change = Callable[[dict[str, torch.Tensor]], Any]


def make(folder: Path, task: str = "vqa", change: Change | None = None, **config: object) -> Path:
    write_source(folder, SIZES, task)
    if change or config:
        state = {name: torch.ones(shape) for name, shape in official_shapes(SIZES, task).items()}
        if change:
            change(state)
        save_lightning(folder / CHECKPOINT, state, {"num_heads": SIZES.heads, **config})
    return folder


def read(folder: Path, **options: Any) -> Model:
    source = read_source(folder)
    return load(replace(source, options=source.options | options))


def test_a_lightning_file_is_read_without_its_classes(tmp_path: Path) -> None:
    checkpoint = read_lightning(make(tmp_path) / CHECKPOINT)
    assert checkpoint.config["num_heads"] == SIZES.heads and checkpoint.config["exp_name"] == "finetune"
    assert checkpoint.weights["token4classifier"].shape == (1, 1, SIZES.dim)
    assert checkpoint.files == [tmp_path / CHECKPOINT]


class ReadOnlyDict(dict):  # type: ignore[type-arg]
    """Stands for sacred's, of which configs are made."""


def test_a_config_of_another_kind_of_dict_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    names = ("sacred", "sacred.config", "sacred.config.custom_containers")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(ReadOnlyDict, "__module__", names[-1])
    monkeypatch.setattr(sys.modules[names[-1]], "ReadOnlyDict", ReadOnlyDict, raising=False)
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"a": torch.ones(1)}, "hyper_parameters": {"config": ReadOnlyDict(num_heads=4)}}, path)
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    assert read_lightning(path).config == {"num_heads": 4}


def test_a_state_dict_alone_is_read_too(tmp_path: Path) -> None:
    folder = make(tmp_path)
    state = {name: torch.ones(shape) for name, shape in official_shapes(SIZES, "vqa").items()}
    torch.save(state, folder / CHECKPOINT)
    model = read(folder, heads=3)
    assert model.config.heads == 3
    with pytest.raises(InputError, match="heads do not divide a width of 96"):
        read(folder, heads=7)


def test_sizes_come_from_the_tensors(tmp_path: Path) -> None:
    model = read(make(tmp_path))
    config = model.config
    assert (config.dim, config.blocks, config.heads, config.prompt_rows) == (96, 1, 6, 21)
    assert (config.grid, config.patch, config.rows, config.columns) == (5, 16, 4, 6)
    assert (config.text_length, config.classes, config.token_types) == (14, 37, 2)
    assert model.memory["rank"] == 3 and model.generation is None
    assert model.labels is not None and model.labels[36] == "answer 36"
    assert model.preprocessing["shorter"] == SIZES.shorter and model.preprocessing["longer"] == 106
    assert model.tokenizer["maximum"] == 14


@pytest.mark.parametrize("rows", [50, 200])
def test_the_number_of_prompts_is_the_files_own(tmp_path: Path, rows: int) -> None:
    write_source(tmp_path, replace(SIZES, prompt_rows=rows))
    (part,) = read(tmp_path).components
    assert part.weights["transformer.blocks.0.attn.APT.keys"].shape == (rows, SIZES.dim)


def test_both_names_of_the_scalar_mean_the_same(tmp_path: Path) -> None:
    found = []
    for name in ("scale", "weight"):
        write_source(tmp_path / name, SIZES, scalar=name)
        found.append(read(tmp_path / name).weights["transformer.blocks.0.attn.proj.weight"].load())
    assert torch.equal(*found)
    state = official_shapes(SIZES, "vqa", "scale") | official_shapes(SIZES, "vqa", "weight")
    save_lightning(
        tmp_path / "weight" / CHECKPOINT, {name: torch.ones(shape) for name, shape in state.items()}, {"num_heads": 6}
    )
    with pytest.raises(InputError, match=r"not expected \(1\): transformer.blocks.0.attn.APT.weight"):
        read(tmp_path / "weight")


def test_the_second_image_has_the_third_token_type(tmp_path: Path) -> None:
    model = read(make(tmp_path, "nlvr2"))
    types = model.reference_weights["token_type_embeddings.weight"].load()
    assert types.shape == (3, SIZES.dim) and model.labels == ["False", "True"]
    assert torch.equal(model.weights["image_types"].load()[:, 0, 0], types[1:])
    two = "token_type_embeddings.weight"
    with pytest.raises(InputError, match="nlvr2 needs a third token type for the second image, there are 2"):
        read(make(tmp_path / "two", "nlvr2", lambda state: state.update({two: state[two][:2]})))


def test_three_token_types_do_no_harm_elsewhere(tmp_path: Path) -> None:
    name = "token_type_embeddings.weight"
    model = read(make(tmp_path, "vqa", lambda state: state.update({name: torch.rand(3, SIZES.dim)})))
    types = model.reference_weights[name].load()
    assert torch.equal(model.weights["image_types"].load()[:, 0, 0], types[1:2])


def test_notes_say_what_a_checkpoint_cannot(tmp_path: Path) -> None:
    (prefix,) = read(make(tmp_path)).notes
    assert "''" in prefix and RELEASED_PREFIX in prefix
    folder = make(tmp_path / "b", max_image_len=200)
    toml = folder / "model.toml"
    toml.write_text(toml.read_text().replace('labels = "answers.json"\n', "").replace('text_prefix = ""\n', ""))
    model = read(folder)
    assert model.tokenizer["prefix"] == RELEASED_PREFIX and model.labels is None
    prefix, patches, labels = model.notes
    assert "set text_prefix" in prefix and "max_image_len = 200" in patches and "no labels" in labels


BAD: dict[str, tuple[Change, str]] = {
    "no prompts": (
        lambda state: [state.pop(name) for name in list(state) if ".APT." in name],
        "holds no prompts of APT",
    ),
    "one tensor less": (lambda state: state.pop("token4classifier"), r"missing \(1\): token4classifier"),
    "one more": (lambda state: state.update(extra=torch.ones(1)), r"not expected \(1\): extra"),
    "another shape": (
        lambda state: state.update({"pooler.dense.bias": torch.ones(3)}),
        r"pooler.dense.bias is \[3\], needs \[96\]",
    ),
    "no square grid": (
        lambda state: state.update({"transformer.pos_embed": torch.ones(1, 8, 96)}),
        "no square grid",
    ),
    "no dimensions": (
        lambda state: state.update({"transformer.pos_embed": torch.ones(8)}),
        r"transformer.pos_embed is \[8\], which has not 3 dimensions",
    ),
    "another task": (
        lambda state: (
            [state.pop(name) for name in list(state) if name.startswith("vqa_classifier")]
            and state.update({"rank_output.weight": torch.ones(1, 96)})
        ),
        "lacks the head of the task vqa: it has those of irtr",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_checkpoints_are_refused_by_name(tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    with pytest.raises(InputError, match=message):
        read(make(tmp_path, "vqa", change))


def test_wrong_options_and_files_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path)
    with pytest.raises(InputError, match=r"image_size is \[64, 97\]; both must be multiples of the patch, 16"):
        read(folder, image_size=[64, 97])
    toml = (folder / "model.toml").read_text()
    for value in ("[64]", '"64x96"', "[64, 96.5]", "[0, 96]", "[true, 96]"):
        (folder / "model.toml").write_text(toml.replace("[64, 96]", value))
        with pytest.raises(InputError, match=r"option image_size is .*, needs 2 integers, such as \[608, 608\], each"):
            read_source(folder)
    (folder / "model.toml").write_text(toml)
    (folder / "answers.json").write_text('["one"]')
    with pytest.raises(InputError, match="names 1 classes, the model has 37"):
        read(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(InputError, match=r"has 4 pieces, the model in .* embeds 130"):
        read(folder)


def test_flags_take_the_files_place(tmp_path: Path) -> None:
    folder = make(tmp_path, "irtr")
    files = {"checkpoint": str(folder / CHECKPOINT), "tokenizer": str(folder / "vocab.txt")}
    source = source_from_flags("apt-vilt", "irtr", files, {"image_size": "64x96"})
    assert load(source).config.height == 64 and "labels" not in source.files
    files["labels"] = str(folder / "vocab.txt")
    with pytest.raises(InputError, match="labels name the answers of vqa; irtr has none"):
        load(source_from_flags("apt-vilt", "irtr", files, {"image_size": "64x96"}))


def test_labels_may_come_in_several_forms(tmp_path: Path) -> None:
    from memvp_export.exporter.labels import read_labels

    forms = {
        "a.txt": "yes\nno\n",
        "b.json": '["yes", "no"]',
        "c.json": json.dumps({"1": "no", "0": "yes"}),
        "d.json": json.dumps({"no": 1, "yes": 0}),
        "e.json": json.dumps({"id2label": {"0": "yes", "1": "no"}}),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        assert read_labels(tmp_path / name, 2) == ["yes", "no"], name
    for name, text in {"a.txt": "\ufeffyes\r\nno", "b.JSON": '\ufeff["yes", "no"]'}.items():
        (tmp_path / name).write_bytes(text.encode())
        assert read_labels(tmp_path / name, 2) == ["yes", "no"], name
    (tmp_path / "a.txt").write_text("one\u2028line\none\x0cpage\n", encoding="utf-8")
    assert read_labels(tmp_path / "a.txt", 2) == ["one\u2028line", "one\x0cpage"]
    for text in ('{"0": "yes", "2": "no"}', "[1, 2]", "3", '{"a": "b"}', "{"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=r"neither a list|not whole JSON"):
            read_labels(tmp_path / "bad.json", 2)


def test_a_folded_table_equals_the_sum_of_its_parts(tmp_path: Path) -> None:
    model = read(make(tmp_path, "nlvr2"))
    own, parts = model.weights, {name: tensor.load() for name, tensor in model.reference_weights.items()}
    types, places = parts["token_type_embeddings.weight"], parts["transformer.pos_embed"]
    expected = {
        "text_embeddings.positions": parts["text_embeddings.position_embeddings.weight"]
        + parts["text_embeddings.token_type_embeddings.weight"][0],
        "text_start": parts["token4classifier"] + types[0],
        "image_starts": parts["transformer.cls_token"] + places[:, :1] + types[1:, None, None],
        "transformer.positions": places[0, 1:],
        "text_type": types[0],
    }
    for name, tensor in expected.items():
        loaded = own[name].load()
        assert own[name].shape == tuple(loaded.shape) == tuple(tensor.shape), name
        np.testing.assert_allclose(loaded, tensor, rtol=1e-6, atol=1e-6, err_msg=name)
