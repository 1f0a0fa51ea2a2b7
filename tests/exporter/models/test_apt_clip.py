"""APT-CLIP against transformers: plain CLIP where the prompts are off, and with them by a statement of its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memvp_export.examples.random_clip import PRESETS, Sizes, clip_config, write_source
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.keep_fp32 import is_kept, module_of
from memvp_export.exporter.models.apt_clip import Config
from memvp_export.exporter.models.family import Model, load
from memvp_export.exporter.models.reference import TorchReference
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from .apt_statement import distance, prompted

SIZES = {
    "odd": replace(PRESETS["odd"], layers=2, image_prompts=1),
    "both-towers": replace(PRESETS["both-towers"], text_layers=2, text_prompts=1),
}


def read(folder: Path, sizes: Sizes) -> tuple[Model, dict[str, Tensor]]:
    """The model, and its prompts as the checkpoint has them."""
    write_source(folder, sizes)
    state = torch.load(folder / "prompts.pth", weights_only=True)["state_dict"]
    return load(read_source(folder)), state


def host_of(folder: Path, sizes: Sizes) -> CLIPModel:
    host = CLIPModel(CLIPConfig(**{k: v for k, v in clip_config(sizes).items() if k != "model_type"})).double().eval()
    missing = host.load_state_dict(load_file(folder / "clip" / "model.safetensors"), strict=False)
    assert not missing.unexpected_keys and not missing.missing_keys
    return host


def prompts_beside(host: CLIPModel, prompts: dict[str, Tensor]) -> None:
    """Put each prompt behind its attention: the hook sees what the attention saw, and answers in its place."""
    sites = {name.partition(".APT.")[0] for name in prompts}
    assert sites <= {name for name, _ in host.named_modules()}
    for site in sites:
        own = {name.removeprefix(f"{site}."): tensor.double() for name, tensor in prompts.items() if site in name}

        def put(module: Any, args: Any, kwargs: Any, result: Any, own: dict[str, Tensor] = own) -> Any:
            seen = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            rows = [prompted(own, "APT", res, y) for res, y in zip(seen, result[0], strict=True)]
            return (torch.stack(rows), *result[1:])

        host.get_submodule(site).register_forward_hook(put, with_kwargs=True)


def inputs_of(sizes: Sizes, batch: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    ids = random.integers(0, sizes.vocab - 2, (batch, 9))
    ids[:, 0] = sizes.vocab - 2
    mask = np.ones_like(ids)
    for row, end in enumerate((8, 4, 6)):
        ids[row, end:] = sizes.vocab - 1
        mask[row, end + 1 :] = 0
    side = sizes.patch * sizes.grid
    pixels = random.standard_normal((batch, 3, side, side)).astype(np.float32)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def expected(host: CLIPModel, inputs: dict[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    """Points of images and texts, and the logits of both."""
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.no_grad():
        found = host(**given | {"pixel_values": given["pixel_values"].double()})
    return found.image_embeds, found.text_embeds, found.logits_per_image


def points(model: Model, inputs: dict[str, np.ndarray], weights: Any = None) -> list[Tensor]:
    session = TorchReference(model.components, weights or model.reference_weights)
    found = (session.run(part.name, inputs)[part.outputs[0].name] for part in model.components)
    return [torch.from_numpy(array) for array in found]


@pytest.mark.parametrize("name", SIZES)
def test_with_prompts_of_nothing_it_is_plain_clip(tmp_path: Path, name: str) -> None:
    sizes = SIZES[name]
    _, state = read(tmp_path, sizes)
    off = {key: torch.zeros_like(t) if key.endswith(("mm_tokens", "scale")) else t for key, t in state.items()}
    torch.save(off, tmp_path / "prompts.pth")
    model, host, inputs = load(read_source(tmp_path)), host_of(tmp_path, sizes), inputs_of(sizes)
    image, text, logits = expected(host, inputs)
    found = points(model, inputs)
    assert distance(found[0], image) < 2e-6 and distance(found[1], text) < 2e-6
    assert model.similarity is not None
    ours = np.exp(model.similarity["logit_scale"]) * found[0] @ found[1].T
    assert distance(ours, logits) < 5e-6
    assert len({tuple(row.round(decimals=3).tolist()) for row in found[1]}) == 3


@pytest.mark.parametrize("name", SIZES)
def test_prompts_are_beside_the_attention(tmp_path: Path, name: str) -> None:
    sizes = SIZES[name]
    model, state = read(tmp_path, sizes)
    host, inputs = host_of(tmp_path, sizes), inputs_of(sizes)
    plain = expected(host, inputs)
    prompts_beside(host, state)
    wanted = expected(host, inputs)
    for found in (points(model, inputs), points(model, inputs, model.weights)):
        assert distance(found[0], wanted[0]) < 2e-6 and distance(found[1], wanted[1]) < 2e-6
    assert distance(wanted[0], plain[0]) > 1e-2
    moved = distance(wanted[1], plain[1])
    assert moved > 1e-2 if sizes.text_prompts else moved == 0


def test_every_input_moves_the_points(tmp_path: Path) -> None:
    model, _ = read(tmp_path, SIZES["odd"])
    inputs = inputs_of(SIZES["odd"])
    before = points(model, inputs)
    pixels = points(model, inputs | {"pixel_values": inputs["pixel_values"][::-1].copy()})
    assert distance(pixels[0], before[0]) > 1e-2 and torch.equal(pixels[1], before[1])
    masked = inputs["attention_mask"].copy()
    masked[:, 2] = 0
    assert distance(points(model, inputs | {"attention_mask": masked})[1], before[1]) > 1e-3
    assert torch.allclose(before[0].norm(dim=-1), torch.ones(3)) and torch.allclose(
        before[1].norm(dim=-1), torch.ones(3)
    )


def test_the_config_says_all_again(tmp_path: Path) -> None:
    model, _ = read(tmp_path, SIZES["both-towers"])
    config: Any = model.config
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.image.encoder.prompt_rows == (9, 0) and again.text.encoder.prompt_rows == (9, 0)


def test_a_model_that_transformers_saved_is_a_base(tmp_path: Path) -> None:
    model, _ = read(tmp_path, SIZES["odd"])
    host = host_of(tmp_path, SIZES["odd"]).float()
    host.save_pretrained(tmp_path / "clip")
    assert json.loads((tmp_path / "clip" / "config.json").read_text())["transformers_version"]
    again = load(read_source(tmp_path))
    assert again.config == model.config and again.weights.keys() == model.weights.keys()
    assert all(torch.equal(again.weights[name].load(), tensor.load()) for name, tensor in model.weights.items())


def test_any_module_may_stay_in_float32(tmp_path: Path) -> None:
    """As `--keep-fp32` asks for: what is kept meets half tensors everywhere in the pass."""
    model, _ = read(tmp_path, SIZES["both-towers"])
    inputs = {name: torch.from_numpy(array) for name, array in inputs_of(SIZES["both-towers"]).items()}
    with torch.no_grad():
        for part in model.components:
            loaded = {name: model.weights[name].load() for name in part.weights}
            (usual,) = part.forward(loaded, inputs)
            for pattern in {module_of(name) for name in part.weights}:
                floats = {name for name, weight in part.weights.items() if weight.float32 or is_kept(name, [pattern])}
                kept = {name: tensor if name in floats else tensor.half() for name, tensor in loaded.items()}
                (found,) = part.forward(kept, inputs)
                assert found.dtype == torch.float32 and distance(found, usual) < 2e-2, pattern
