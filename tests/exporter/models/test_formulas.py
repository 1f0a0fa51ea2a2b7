"""The forward passes against the paper's formulas, stated here once more on the official files (spec 1.2 to 1.4).

The statement below shares nothing with the exporter: it is float64, keeps Meta's row order of q and k, rotates
adjacent pairs as complex numbers and adds keys and values of the memory up.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from memvp_export.exporter.models import clip_tower, layers, memvp_llama
from memvp_export.exporter.models.family import Model
from memvp_export.exporter.models.reference import TorchReference
from torch import Tensor

Weights = dict[str, Tensor]
ADAPTER_SCALE, VISUAL_SCALE, MEMORY_SCALE = 0.1, 0.01, 0.1
BATCH, COLUMNS = 3, 11


def stated_tower(w: Weights, pixels: Tensor) -> Tensor:
    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    kernel = w["visual.conv1.weight"]
    width, side = kernel.shape[0], kernel.shape[-1]
    patches = pixels.unfold(2, side, side).unfold(3, side, side)
    x = torch.einsum("bcijkl,dckl->bijd", patches, kernel).flatten(1, 2)
    x = torch.cat([w["visual.class_embedding"].repeat(len(x), 1, 1), x], 1) + w["visual.positional_embedding"]
    x = norm("visual.ln_pre", x)
    blocks = sum(name.startswith("visual") and name.endswith("attn.in_proj_bias") for name in w)
    for i in range(blocks - 1):
        block = f"visual.transformer.resblocks.{i}"
        packed = norm(f"{block}.ln_1", x) @ w[f"{block}.attn.in_proj_weight"].T + w[f"{block}.attn.in_proj_bias"]
        heads = []
        for h in range(0, width, 64):
            q, k, v = (packed[..., part * width + h :][..., :64] for part in range(3))
            heads.append(torch.softmax(q @ k.mT / 8, -1) @ v)
        x = x + torch.cat(heads, -1) @ w[f"{block}.attn.out_proj.weight"].T + w[f"{block}.attn.out_proj.bias"]
        y = norm(f"{block}.ln_2", x)
        u = y @ w[f"{block}.mlp.c_fc.weight"].T + w[f"{block}.mlp.c_fc.bias"]
        mlp = (u / (1 + torch.exp(-1.702 * u))) @ w[f"{block}.mlp.c_proj.weight"].T + w[f"{block}.mlp.c_proj.bias"]
        a = y @ w[f"backbone.{block}.adapter_mlp.fc1.weight"].T
        gelu = a * (1 + torch.erf(a / math.sqrt(2))) / 2
        x = x + mlp + ADAPTER_SCALE * gelu @ w[f"backbone.{block}.adapter_mlp.fc2.weight"].T
    return norm("visual.ln_post", x[:, 1:])


def stated_visual(w: Weights, features: Tensor, indicator: Tensor) -> Tensor:
    u = features @ w["adapter_proj.fc1.weight"].T + w["adapter_proj.fc1.bias"]
    g = (u * torch.sigmoid(u)) @ w["adapter_proj.fc2.weight"].T + w["adapter_proj.fc2.bias"]
    return indicator.view(-1, 1, 1) * (VISUAL_SCALE * g)


def stated_rotation(x: Tensor, positions: Tensor) -> Tensor:
    """x [B,T,H,hd], positions [B,T]: the pair (2i, 2i+1) turned by position * 10000^(-2i/hd)."""
    width = x.shape[-1]
    angles = positions[..., None].double() * 10000.0 ** (-torch.arange(0, width, 2).double() / width)
    turned = (
        torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        * torch.polar(torch.ones_like(angles), angles)[:, :, None]
    )
    return torch.view_as_real(turned).flatten(-2)


class StatedLlama:
    """LLaMA-1 with MemVP's memory beside every FFN, over whole sequences."""

    def __init__(self, w: Weights, params: dict, visual: Tensor) -> None:
        self.w, self.params, self.visual = w, params, visual
        padded = torch.cat(
            [visual, visual.new_zeros(len(visual), w["adapter_emb1"].shape[1] - visual.shape[1], visual.shape[2])], 1
        )
        self.memory_keys, self.memory_values = padded + w["adapter_emb1"], padded + w["adapter_emb2"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + self.params["norm_eps"]) * self.w[name]

    def block(self, i: int, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        def part(name: str) -> Tensor:
            return self.w[f"layers.{i}.{name}.weight"].T

        n = self.norm(f"layers.{i}.attention_norm.weight", x)
        q, k, v = (
            (n @ part(f"attention.w{name}")).unflatten(-1, (self.params["n_heads"], -1)) for name in ("q", "k", "v")
        )
        q, k = stated_rotation(q, positions), stated_rotation(k, positions)
        scores = torch.einsum("bthc,bshc->bhts", q, k) / math.sqrt(q.shape[-1]) + mask
        mixed = torch.einsum("bhts,bshc->bthc", torch.softmax(scores, -1), v).flatten(2)
        h = x + mixed @ part("attention.wo")
        n = self.norm(f"layers.{i}.ffn_norm.weight", h)
        gate = n @ part("feed_forward.w1")
        ffn = (gate * torch.sigmoid(gate) * (n @ part("feed_forward.w3"))) @ part("feed_forward.w2")
        scores = n @ self.memory_keys.mT
        return h + ffn + MEMORY_SCALE * (scores * torch.sigmoid(scores)) @ self.memory_values

    def logits(self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        columns = ids.shape[1]
        positions = torch.arange(columns).expand_as(ids) if positions is None else positions
        mask = causal(columns) if mask is None else mask
        x = self.w["tok_embeddings.weight"][ids]
        for i in range(self.params["n_layers"]):
            x = self.block(i, x, positions, mask)
        return self.norm("norm.weight", x) @ self.w["output.weight"].T


def causal(columns: int) -> Tensor:
    return torch.full((columns, columns), -math.inf).triu(1)


def adjacent_to_halves(x: Tensor) -> Tensor:
    """Meta's order of a head's values (pairs 2i, 2i+1) -> Hugging Face's (pairs i, i + hd/2)."""
    return torch.cat([x[..., 0::2], x[..., 1::2]], -1)


def distance(actual: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> float:
    actual, expected = torch.as_tensor(actual).double(), torch.as_tensor(expected).double()
    assert actual.shape == expected.shape
    return float((actual - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def features(official: Weights, pixels: Tensor) -> Tensor:
    return stated_tower(official, pixels.double())


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, 150, (BATCH, COLUMNS), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def llama(official: Weights, odd_source: Path, features: Tensor) -> StatedLlama:
    """The second row has no image."""
    params = json.loads((odd_source / "weights" / "base" / "params.json").read_text())
    return StatedLlama(official, params, stated_visual(official, features, torch.tensor([1.0, 0, 1]).double()))


def decoder_inputs(config: memvp_llama.Config, ids: Tensor, visual: Tensor) -> dict[str, Tensor]:
    batch, columns = ids.shape
    everywhere = torch.arange(columns).expand(batch, columns)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": everywhere,
        "logits_positions": everywhere,
        "visual_memory": visual.float(),
    }
    empty = torch.empty(batch, config.heads, 0, config.head_dim)
    return inputs | {f"past_key_values.{i}.{kind}": empty for i in range(config.layers) for kind in ("key", "value")}


def test_tower(model: Model, reference: TorchReference, pixels: Tensor, features: Tensor) -> None:
    actual = clip_tower.tower(reference.weights, model.config.tower, pixels)
    assert actual.shape == (BATCH, 256, 64)
    assert distance(actual, features) < 1e-5
    assert distance(features[[1, 0, 2]], features) > 0.1


def test_tower_of_several_heads() -> None:
    config = clip_tower.TowerConfig(width=192, blocks=4, patch=4, grid=3, adapter_dim=5, adapter_scale=ADAPTER_SCALE)
    generator = torch.Generator().manual_seed(0)
    w = {
        name: torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5
        for name, weight in clip_tower.tower_weights(config).items()
    }
    w["visual.transformer.resblocks.3.attn.in_proj_bias"] = torch.full((1,), math.nan)  # the last block is there
    pixels = torch.randn(2, 3, 12, 12, generator=generator)
    stated = stated_tower({name: tensor.double() for name, tensor in w.items()}, pixels.double())
    assert distance(clip_tower.tower(w, config, pixels), stated) < 1e-5


def test_projector_indicator_and_lambda(
    official: Weights, reference: TorchReference, pixels: Tensor, features: Tensor
) -> None:
    indicator = torch.tensor([1.0, 0.0, 1.0])
    inputs = {"pixel_values": pixels.numpy(), "image_indicator": indicator.numpy()}
    actual = reference.run("vision", inputs)["visual_memory"]
    assert official["adapter_proj.fc2.bias"].abs().min() > 0
    assert (actual[1] == 0).all() and (actual[[0, 2]] != 0).all()
    assert distance(actual, stated_visual(official, features, indicator.double())) < 1e-5


def test_rotation() -> None:
    x = torch.randn(2, 7, 3, 10, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [90, 3, 0, 17, 511, 1, 1]])
    frequencies = 10000.0 ** (-torch.arange(0, 10, 2) / 10)
    angles = positions[:, None, :, None] * frequencies
    actual = layers.rotary(adjacent_to_halves(x).transpose(1, 2), angles.cos(), angles.sin())
    stated = stated_rotation(x.double(), positions)
    assert distance(actual.transpose(1, 2), adjacent_to_halves(stated)) < 1e-5
    assert distance(x, stated) > 0.1


def test_rotary_frequencies(model: Model) -> None:
    expected = [10000 ** (-2 * i / 16) for i in range(8)]
    np.testing.assert_allclose(memvp_llama.rotary_frequencies(model.config), expected, rtol=1e-6)


@pytest.mark.parametrize("i", [0, 2])
def test_one_block(model: Model, reference: TorchReference, llama: StatedLlama, ids: Tensor, i: int) -> None:
    """Layer i alone: the state after it is read through an identity head, its keys and values from the cache."""
    d, heads = model.config.dim, model.config.heads
    config = replace(model.config, layers=1)
    own = {name.replace(f"layers.{i}.", "layers.0."): name for name in reference.weights if f"layers.{i}." in name}
    weights = {**reference.weights, **{name: reference.weights[old] for name, old in own.items()}}
    weights |= {"lm_head.weight": torch.eye(d), "model.norm.weight": torch.ones(d)}
    state, key, value = memvp_llama.decoder(weights, config, decoder_inputs(config, ids, llama.visual))

    x, positions = llama.w["tok_embeddings.weight"][ids], torch.arange(COLUMNS).expand_as(ids)
    after = llama.block(i, x, positions, causal(COLUMNS))
    root = torch.sqrt((after**2).mean(-1, keepdim=True) + config.norm_eps)
    assert distance(state, after / root) < 1e-5
    n = llama.norm(f"layers.{i}.attention_norm.weight", x)
    stated_key = stated_rotation(
        (n @ llama.w[f"layers.{i}.attention.wk.weight"].T).unflatten(-1, (heads, -1)), positions
    )
    stated_value = (n @ llama.w[f"layers.{i}.attention.wv.weight"].T).unflatten(-1, (heads, -1))
    assert distance(key.transpose(1, 2), adjacent_to_halves(stated_key)) < 1e-5
    assert distance(value.transpose(1, 2), stated_value) < 1e-5


def test_logits_of_the_whole_model(
    reference: TorchReference, model: Model, llama: StatedLlama, pixels: Tensor, ids: Tensor
) -> None:
    inputs = {"pixel_values": pixels.numpy(), "image_indicator": np.array([1, 0, 1], np.float32)}
    visual = torch.from_numpy(reference.run("vision", inputs)["visual_memory"])
    arrays = {name: tensor.numpy() for name, tensor in decoder_inputs(model.config, ids, visual).items()}
    actual = reference.run("decoder", arrays, ["logits"])["logits"]
    stated = llama.logits(ids)
    assert distance(actual, stated) <= 1e-5

    without = StatedLlama(llama.w, llama.params, torch.zeros_like(visual, dtype=torch.float64)).logits(ids)
    assert distance(without[1], stated[1]) == 0, "the row without an image"
    assert min(distance(without[i], stated[i]) for i in (0, 2)) > 1e-3, "the image must move the logits"


def test_the_static_memory_works_without_an_image(reference: TorchReference, model: Model, llama: StatedLlama) -> None:
    ids = torch.arange(5)[None]
    blank = torch.zeros(1, 256, model.config.dim)
    arrays = {name: tensor.numpy() for name, tensor in decoder_inputs(model.config, ids, blank).items()}
    actual = reference.run("decoder", arrays, ["logits"])["logits"]
    stated = StatedLlama(llama.w, llama.params, blank.double()).logits(ids)
    bare = {**llama.w, "adapter_emb2": torch.zeros_like(llama.w["adapter_emb2"])}
    assert distance(actual, stated) <= 1e-5
    assert distance(StatedLlama(bare, llama.params, blank.double()).logits(ids), stated) > 1e-3


def test_the_official_left_padding_gives_the_logits_of_the_bare_row(
    reference: TorchReference, model: Model, llama: StatedLlama, ids: Tensor
) -> None:
    """generate() counts pads as positions and lets pads see pads (spec 1.5); ours runs the row from position 0."""
    pads, row = 4, ids[:1]
    padded = torch.cat([torch.zeros(1, pads, dtype=torch.int64), row], 1)
    mask = causal(pads + COLUMNS)
    mask[pads:, :pads] = -math.inf
    visual = llama.visual[:1]
    stated = StatedLlama(llama.w, llama.params, visual).logits(padded, mask=mask)[:, pads:]
    arrays = {name: tensor.numpy() for name, tensor in decoder_inputs(model.config, row, visual).items()}
    assert distance(reference.run("decoder", arrays, ["logits"])["logits"], stated) <= 1e-5
