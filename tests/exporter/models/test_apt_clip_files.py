"""The files of APT-CLIP: either form of CLIP, any form of the prompts, and how what is wrong is said."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memvp_export.examples.random_clip import PRESETS, PROMPTS, clip_config, clip_state, prompt_shapes, write_source
from memvp_export.examples.random_clip import write_vocabulary as write_clip_vocabulary
from memvp_export.exporter.checkpoints.source import read_source, source_from_flags
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models.family import Model, load
from memvp_export.exporter.models.reference import TorchReference
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPVisionConfig

SIZES = replace(PRESETS["odd"], layers=2, image_prompts=2, text_layers=1)
# OpenAI's files know heads of 64, four times the width, and QuickGELU.
OPENAI = replace(PRESETS["both-towers"], activation="quick_gelu", layers=2, width=128, heads=2, ffn_dim=512)
SITE = "vision_model.encoder.layers.0.self_attn"
TOKENS = f"{SITE}.APT.mm_tokens"


def read(folder: Path, **options: Any) -> Model:
    source = read_source(folder)
    return load(replace(source, options=source.options | options))


def save_prompts(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    state = {name: torch.ones(shape) for name, shape in prompt_shapes(SIZES).items()}
    change(state)
    torch.save(state, folder / PROMPTS)


def openai_halves(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What OpenAI trained in half precision is float16 in its files: matrices, but for embeddings, and their biases."""
    half = ("patch_embedding", "_proj.", "fc1.", "fc2.", "_projection.")
    return {name: tensor.half() if any(part in name for part in half) else tensor for name, tensor in state.items()}


def openai_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's tensors as OpenAI's file has them (spec 1.9)."""
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
    names |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    made = {
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "logit_scale": state["logit_scale"],
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(40),
        "vocab_size": torch.tensor(530),
    }
    for kind in ("weight", "bias"):
        made |= {f"visual.ln_pre.{kind}": state[f"vision_model.pre_layrnorm.{kind}"]}
        made |= {f"visual.ln_post.{kind}": state[f"vision_model.post_layernorm.{kind}"]}
        made |= {f"ln_final.{kind}": state[f"text_model.final_layer_norm.{kind}"]}
        for tower, blocks, layers in (("vision_model", "visual.", 2), ("text_model", "", OPENAI.text_layers)):
            for i in range(layers):
                block, layer = f"{blocks}transformer.resblocks.{i}", f"{tower}.encoder.layers.{i}"
                parts = [state[f"{layer}.self_attn.{part}_proj.{kind}"] for part in ("q", "k", "v")]
                made |= {f"{block}.attn.in_proj_{kind}": torch.cat(parts)}
                made |= {f"{block}.{ours}.{kind}": state[f"{layer}.{theirs}.{kind}"] for theirs, ours in names.items()}
    return made


def test_sizes_come_from_tensors_and_config(tmp_path: Path) -> None:
    write_source(tmp_path, SIZES)
    model = read(tmp_path)
    config: Any = model.config
    image, text = config.image, config.text
    assert (image.encoder.width, image.encoder.layers, image.encoder.heads, image.encoder.ffn_dim) == (96, 2, 6, 160)
    assert (image.patch, image.grid, image.image_size, config.dim) == (16, 3, 48, 56)
    assert (text.encoder.width, text.encoder.layers, text.encoder.heads) == (80, 1, 5)
    assert (text.vocab, text.positions, text.end) == (620, 40, 619)
    assert image.encoder.prompt_rows == (21, 21) and text.encoder.prompt_rows == ()
    assert (model.memory["table_rows"], model.memory["rank"], model.generation) == (21, 3, None)
    assert model.similarity == {"logit_scale": 2.5, "template": "a photo of a {}."}
    assert model.labels is not None and model.labels[3] == "bowl of soup" and not model.notes
    assert model.preprocessing["resize"] == "center-crop" and model.preprocessing["height"] == 48
    assert model.tokenizer["type"] == "clip-bpe" and model.tokenizer["maximum"] == 40
    assert [path.name for path in model.files["base"]] == ["config.json", "model.safetensors"]
    assert [path.name for path in model.files["tokenizer"]] == ["vocab.json", "merges.txt"]
    assert set(model.files) == {"base", "checkpoint", "tokenizer", "labels"}


def test_openais_file_is_the_same_model(tmp_path: Path) -> None:
    write_source(tmp_path, OPENAI)
    state = openai_halves(clip_state(OPENAI))
    save_file(state, tmp_path / "clip" / "model.safetensors")
    model = read(tmp_path)
    torch.save(openai_state(state), tmp_path / "ViT.pt")
    toml = tmp_path / "model.toml"
    toml.write_text(toml.read_text().replace('base = "clip"', 'base = "ViT.pt"'))
    other = read(tmp_path)
    assert other.weights.keys() == model.weights.keys() and other.memory == model.memory
    assert other.precision == model.precision == "fp16"
    assert other.weights["text_model.embeddings.token_embedding.weight"].dtype == torch.float32
    for name, tensor in model.weights.items():
        assert torch.equal(other.weights[name].load(), tensor.load()), name
        assert other.weights[name].shape == tensor.shape, name
    config, own = other.config.to_dict(), model.config.to_dict()
    assert (config["text"].pop("end"), own["text"].pop("end")) == (None, 529) and config == own
    ids = np.array([[528, 70, 71, 72, 529, 529], [528, 70, 71, 529, 3, 3]])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    inputs["pixel_values"] = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    for part in model.components:
        pair = (TorchReference(each.components, each.reference_weights) for each in (model, other))
        (wanted,), (found,) = (session.run(part.name, inputs).values() for session in pair)
        np.testing.assert_array_equal(found, wanted)
        assert np.abs(found[0] - found[1]).max() > 1e-2, part.name


def test_every_form_of_the_prompts_is_read(tmp_path: Path) -> None:
    write_source(tmp_path, SIZES)
    state = torch.load(tmp_path / PROMPTS, weights_only=True)["state_dict"]
    keys = f"{SITE}.APT.keys"
    wanted = read(tmp_path).weights[keys].load()
    toml = (tmp_path / "model.toml").read_text()
    older = {name.replace(".scale", ".weight"): tensor for name, tensor in state.items()}
    for content in (state, {"model": {f"module.{name}": t for name, t in state.items()}}, {"state_dict": older}):
        torch.save(content, tmp_path / PROMPTS)
        assert torch.equal(read(tmp_path).weights[keys].load(), wanted)
    save_file(state, tmp_path / "prompts.safetensors")
    (tmp_path / "model.toml").write_text(toml.replace(PROMPTS, "prompts.safetensors"))
    assert torch.equal(read(tmp_path).weights[keys].load(), wanted)


def test_a_folded_tensor_names_all_that_it_is_made_of(tmp_path: Path) -> None:
    write_source(tmp_path, SIZES)
    origin = read(tmp_path).weights[f"{SITE}.out_proj.weight"].origin
    assert f"model.safetensors: {SITE}.out_proj.weight" in origin and f"{PROMPTS}: {SITE}.APT.scale" in origin


def test_what_a_checkpoint_holds_of_clip_goes_before_the_base(tmp_path: Path) -> None:
    write_source(tmp_path, SIZES)
    state = torch.load(tmp_path / PROMPTS, weights_only=True)["state_dict"]
    trained = clip_state(SIZES, seed=7) | {"logit_scale": torch.tensor(3.0)}
    torch.save(state | trained, tmp_path / PROMPTS)
    model = read(tmp_path)
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(model.weights[name].load(), trained[name])
    assert model.similarity is not None and model.similarity["logit_scale"] == 3.0
    assert model.notes == [f"{len(trained)} tensors of CLIP itself are taken from the checkpoint, not from base"]


def test_prompts_may_differ_from_block_to_block(tmp_path: Path) -> None:
    write_source(tmp_path, SIZES)
    text = "text_model.encoder.layers.0.self_attn"
    wide = {f"{text}.APT.mm_tokens": torch.ones(5, 80), f"{text}.APT.scale": torch.ones(1)}
    wide |= {f"{text}.APT.mm.0.weight": torch.ones(2, 80), f"{text}.APT.mm.1.weight": torch.ones(80, 2)}
    save_prompts(tmp_path, lambda state: ([state.pop(n) for n in list(state) if SITE in n], state.update(wide)))
    model = read(tmp_path)
    assert (model.memory["table_rows"], model.memory["rank"]) == ([21, 5], [3, 2])
    first, second = (part.weights for part in model.components)
    assert f"{SITE}.APT.keys" not in first and second[f"{text}.APT.keys"].shape == (5, 80)


def test_a_config_may_name_the_end_as_older_ones_do(tmp_path: Path) -> None:
    write_source(tmp_path, SIZES)
    path = tmp_path / "clip" / "config.json"
    config: dict[str, Any] = clip_config(SIZES)
    path.write_text(json.dumps(config | {"text_config": config["text_config"] | {"eos_token_id": 2}}))
    model: Any = read(tmp_path)
    assert model.config.text.end is None


def test_a_config_may_leave_out_the_heads_that_transformers_takes(tmp_path: Path) -> None:
    write_source(tmp_path, SIZES)
    path = tmp_path / "clip" / "config.json"
    config: dict[str, Any] = clip_config(SIZES)
    for section in ("vision_config", "text_config"):
        config[section] = {key: value for key, value in config[section].items() if key != "num_attention_heads"}
    path.write_text(json.dumps(config))
    model: Any = read(tmp_path)
    assert model.config.image.encoder.heads == CLIPVisionConfig().num_attention_heads
    assert model.config.text.encoder.heads == CLIPTextConfig().num_attention_heads


def test_notes_say_that_labels_are_missing(tmp_path: Path) -> None:
    write_source(tmp_path, SIZES, labels=False)
    model = read(tmp_path)
    assert model.labels is None and ["no labels were given" in note for note in model.notes] == [True]


def _config(section: str, **changed: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "clip" / "config.json"
        config = json.loads(path.read_text())
        config[section] = config[section] | changed if changed else "text"
        path.write_text(json.dumps(config))

    return change


def _top(**changed: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "clip" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return change


def _prompts(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    return lambda folder: save_prompts(folder, change)


def _labels(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "labels.txt").write_text(text)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no prompts": (
        _prompts(lambda state: (state.clear(), state.update(logit_scale=torch.tensor(1.0)))),
        "no prompts of",
    ),
    "a scale without end": (
        _prompts(lambda state: state.update(logit_scale=torch.tensor(80.0))),
        f"{PROMPTS}: logit_scale is 80.0, which is no factor's logarithm",
    ),
    "one tensor less": (_prompts(lambda state: state.pop(f"{SITE}.APT.scale")), r"missing \(1\): .*APT.scale"),
    "another width": (
        _prompts(lambda state: state.update({f"{SITE}.APT.mm_tokens": torch.ones(21, 64)})),
        r"APT.mm_tokens is \[21, 64\], needs \[21, 96\]",
    ),
    "a block too many": (
        _prompts(lambda state: state.update({f"{SITE.replace('.0.', '.2.')}.APT.mm_tokens": torch.ones(21, 96)})),
        r"not expected \(1\): vision_model.encoder.layers.2",
    ),
    "another place": (
        _prompts(lambda state: state.update({f"{SITE}.out_proj.APT.mm_tokens": torch.ones(21, 96)})),
        r"not expected \(1\): .*out_proj.APT.mm_tokens",
    ),
    "no tensors": (lambda folder: torch.save({"model": {}}, folder / PROMPTS), "holds no tensors by name"),
    "no checkpoint": (lambda folder: (folder / PROMPTS).write_bytes(b"nothing"), "is not a PyTorch file"),
    "one tower": (_config("model_type"), "of the family 'text'; expected a 'clip'"),
    "another activation": (_config("vision_config", hidden_act="relu"), "hidden_act is 'relu'"),
    "another model's config": (_config("vision_config", image_size=224), "image_size is 224, the tensors have 48"),
    "another space": (_top(projection_dim=512), "projection_dim is 512, the tensors have 56"),
    "odd heads": (_config("text_config", num_attention_heads=7), "7 heads do not divide a width of 80"),
    "an end beyond": (_config("text_config", eos_token_id=49407), "eos_token_id is 49407, beyond the 620 ids"),
    "another end": (_config("text_config", eos_token_id=600), "ends texts with the id 619, .* reads them at 600"),
    "no section": (_config("text_config"), "text_config is no object"),
    "another tokenizer": (lambda folder: write_clip_vocabulary(folder / "clip", 600), "has 600 pieces, .* embeds 620"),
    "no labels": (_labels(""), "is no set of labels: it names none"),
    "a blank label": (_labels("cat\n\ndog\n"), "label 2 is blank"),
    "a label twice": (_labels("cat\ndog\n cat\n"), "'cat' is there twice"),
    "no prompts at one block": (_prompts(lambda state: state.pop(TOKENS)), rf"missing \(1\): {TOKENS}"),
    "prompts of no rows": (_prompts(lambda state: state.update({TOKENS: torch.ones(0, 96)})), r"is \[0, 96\], needs"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said(tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    write_source(tmp_path, SIZES)
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_a_template_has_one_place_for_the_label(tmp_path: Path) -> None:
    write_source(tmp_path, SIZES)
    for template in ("a photo", "{} and {}"):
        with pytest.raises(InputError, match=r"must have one \{\}, where the label goes"):
            read(tmp_path, template=template)


def test_other_files_in_the_place_of_openais_are_refused(tmp_path: Path) -> None:
    write_source(tmp_path, SIZES)
    toml = tmp_path / "model.toml"
    toml.write_text(toml.read_text().replace('base = "clip"', 'base = "ViT.pt"'))
    for state, message in (
        ({"visual.layer1.0.conv1.weight": torch.ones(1)}, "is a ResNet CLIP; give a ViT"),
        ({"visual.conv1.weight": torch.ones(1)}, "is no OpenAI CLIP file: it has not both"),
    ):
        torch.save(state, tmp_path / "ViT.pt")
        with pytest.raises(InputError, match=message):
            read(tmp_path)


def test_flags_take_the_files_place(tmp_path: Path) -> None:
    write_source(tmp_path, SIZES)
    files = {"base": str(tmp_path / "clip"), "checkpoint": str(tmp_path / PROMPTS), "tokenizer": str(tmp_path / "clip")}
    model = load(source_from_flags("apt-clip", None, files, {"template": "{}", "max_batch": "3"}))
    assert model.task == "labels" and model.components[1].ranges == {"batch": (1, 3), "sequence": (2, 40)}
    assert model.similarity is not None and model.similarity["template"] == "{}"
