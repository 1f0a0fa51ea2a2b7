"""APT-METER's forward passes against spec 5, stated here once more on the official file in float64.

The statement shares nothing with the exporter: it runs one text with one image at a time, leaves out masked columns
instead of adding a mask, cuts patches one by one, and has every formula unfolded.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from memvp_export.examples.random_apt import CHECKPOINT, TASKS, save_lightning
from memvp_export.examples.random_meter import PRESETS, Sizes, official_shapes, write_source
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.keep_fp32 import is_kept, module_of
from memvp_export.exporter.models import apt_meter, roberta
from memvp_export.exporter.models.apt_meter_files import interpolated
from memvp_export.exporter.models.family import Model, load
from memvp_export.exporter.models.reference import TorchReference
from torch import Tensor

from .apt_statement import Weights, answered, attended, distance, gelu, linear, norm, official_file, prompted

PAD, HEAD = 1, 64
MASKS = (
    (1, 1, 1, 1, 1, 1, 1, 1, 1),
    (1, 1, 1, 1, 1, 0, 0, 0, 0),
    (0, 0, 0, 1, 1, 1, 1, 1, 1),
    (1, 1, 0, 0, 1, 1, 0, 1, 0),
)


def stated_text(w: Weights, ids: Tensor, mask: Tensor, layers: int) -> Tensor:
    positions, count = [], 0
    for token in ids.tolist():
        count += token != PAD
        positions.append(count + 1 if token != PAD else 1)
    e = "text_transformer.embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.position_embeddings.weight"][positions]
    x = norm(w, f"{e}.LayerNorm", x + w[f"{e}.token_type_embeddings.weight"][0], 1e-5)
    for i in range(layers):
        layer = f"text_transformer.encoder.layer.{i}"
        q, k, v = (linear(w, f"{layer}.attention.self.{part}", x) for part in ("query", "key", "value"))
        y = linear(w, f"{layer}.attention.output.dense", attended(q, k[mask], v[mask], x.shape[1] // HEAD))
        x = norm(w, f"{layer}.attention.output.LayerNorm", x + y, 1e-5)
        y = linear(w, f"{layer}.output.dense", gelu(linear(w, f"{layer}.intermediate.dense", x)))
        x = norm(w, f"{layer}.output.LayerNorm", x + y, 1e-5)
    return x


def stated_image(w: Weights, pixels: Tensor, blocks: int, patch: int) -> Tensor:
    rows = [w["vit_model.visual.class_embedding"]]
    for y in range(0, pixels.shape[1], patch):
        for x in range(0, pixels.shape[2], patch):
            cut = pixels[:, y : y + patch, x : x + patch]
            rows.append(torch.einsum("chw,dchw->d", cut, w["vit_model.visual.conv1.weight"]))
    x = torch.stack(rows) + w["vit_model.visual.positional_embedding"]
    x = norm(w, "vit_model.visual.ln_pre", x, 1e-5)
    for i in range(blocks):
        block = f"vit_model.visual.transformer.resblocks.{i}"
        n = norm(w, f"{block}.ln_1", x, 1e-5)
        q, k, v = (n @ w[f"{block}.attn.in_proj_weight"].T + w[f"{block}.attn.in_proj_bias"]).split(x.shape[1], -1)
        x = x + linear(w, f"{block}.attn.out_proj", attended(q, k, v, x.shape[1] // HEAD))
        u = linear(w, f"{block}.mlp.c_fc", norm(w, f"{block}.ln_2", x, 1e-5))
        x = x + linear(w, f"{block}.mlp.c_proj", u * torch.sigmoid(1.702 * u))
    return norm(w, "vit_model.visual.ln_post", x, 1e-5)


def stated_cross(w: Weights, layer: str, x: Tensor, own: Tensor, other: Tensor, seen: Tensor, heads: int) -> Tensor:
    """own and seen are the columns of x and of the other stream that may be looked at."""
    for part in ("attention", "crossattention"):
        source = x[own] if part == "attention" else other[seen]
        q = linear(w, f"{layer}.{part}.self.query", x)
        k, v = (linear(w, f"{layer}.{part}.self.{name}", source) for name in ("key", "value"))
        y = linear(w, f"{layer}.{part}.output.dense", attended(q, k, v, heads))
        y = prompted(w, f"{layer}.{part}.output.APT", x, y)
        x = norm(w, f"{layer}.{part}.output.LayerNorm", y + x, 1e-12)
    y = linear(w, f"{layer}.output.dense", gelu(linear(w, f"{layer}.intermediate.dense", x)))
    return norm(w, f"{layer}.output.LayerNorm", y + x, 1e-12)


def stated_cls(w: Weights, sizes: Sizes, ids: Tensor, mask: Tensor, pixels: Tensor, kind: int) -> Tensor:
    """The pooled row of both streams [2d]."""
    types = w["token_type_embeddings.weight"]
    t = linear(w, "cross_modal_text_transform", stated_text(w, ids, mask, sizes.text_layers))
    t = torch.cat([w["token4classifier"][0], t[1:]]) + types[0]
    y = linear(w, "cross_modal_image_transform", stated_image(w, pixels, sizes.blocks, sizes.patch)) + types[kind]
    every = torch.ones(len(y), dtype=torch.bool)
    for i in range(sizes.layers):
        new = stated_cross(w, f"cross_modal_text_layers.{i}", t, mask, y, every, sizes.heads)
        y = stated_cross(w, f"cross_modal_image_layers.{i}", y, every, t, mask, sizes.heads)
        t = new
    pooled = linear(w, "cross_modal_text_pooler.dense", t[0]), linear(w, "cross_modal_image_pooler.dense", y[0])
    return torch.tanh(torch.cat(pooled))


def stated(w: Weights, sizes: Sizes, task: str, inputs: Mapping[str, np.ndarray]) -> Tensor:
    rows = []
    for b in range(len(MASKS)):
        ids, mask = torch.from_numpy(inputs["input_ids"][b]), torch.from_numpy(inputs["attention_mask"][b]) != 0
        seen = [
            stated_cls(w, sizes, ids, mask, torch.from_numpy(inputs[f"pixel_values{suffix}"][b]).double(), kind)
            for suffix, kind in (("", 1), ("_2", 2))
            if f"pixel_values{suffix}" in inputs
        ]
        rows.append(answered(w, task, torch.cat(seen)))
    return torch.stack(rows)


def inputs_for(sizes: Sizes, task: str) -> dict[str, np.ndarray]:
    random, side = np.random.default_rng(0), sizes.patch * sizes.grid
    mask = np.array(MASKS)
    ids = np.where(mask, random.integers(4, sizes.vocab, mask.shape), PAD)
    # A token that is masked, but counted among the positions (spec 10).
    ids[1, 5] = 0
    images = {
        f"pixel_values{suffix}": random.standard_normal((len(mask), 3, side, side)).astype(np.float32)
        for suffix in ("", "_2")[: 2 if task == "nlvr2" else 1]
    }
    return {"input_ids": ids, "attention_mask": mask, **images}


@pytest.fixture(scope="module")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[tuple[str, str], Path] = {}

    def make(task: str, preset: str = "odd") -> Path:
        if (task, preset) not in made:
            made[task, preset] = write_source(tmp_path_factory.mktemp(task), PRESETS[preset], task).parent
        return made[task, preset]

    return make


def read(folder: Path) -> Model:
    return load(read_source(folder))


@pytest.mark.parametrize("preset", ["odd", "wide-patches"])
@pytest.mark.parametrize("task", TASKS)
def test_model(source_of: Callable[..., Path], task: str, preset: str) -> None:
    folder, sizes = source_of(task, preset), PRESETS[preset]
    model, inputs = read(folder), inputs_for(sizes, task)
    expected = stated(official_file(folder / CHECKPOINT), sizes, task, inputs)
    for weights in (model.reference_weights, model.weights):
        (actual,) = TorchReference(model.components, weights).run("model", inputs).values()
        # A score is one sum, which may come near 0.
        assert distance(actual, expected) < (1e-5 if task == "irtr" else 2e-6)
    assert distance(expected.roll(1, 0), expected) > 0.05


@pytest.mark.parametrize("task", TASKS)
def test_every_input_moves_the_output_and_padding_does_not(source_of: Callable[..., Path], task: str) -> None:
    sizes = PRESETS["odd"]
    model, inputs = read(source_of(task)), inputs_for(sizes, task)
    session = TorchReference(model.components, model.weights)
    (usual,) = session.run("model", inputs).values()

    def moved(**changed: np.ndarray) -> float:
        (other,) = session.run("model", inputs | changed).values()
        return float(np.abs(other - usual).max())

    for name, array in inputs.items():
        assert moved(**{name: np.roll(array, 1, 0)}) > 1e-3, name
    ids = inputs["input_ids"].copy()
    ids[[1, 3], [-1, 2]] = PAD
    ids[0, 0] = 3
    assert moved(input_ids=ids) > 1e-3, "the first id is replaced only after RoBERTa has read it"
    ids[0, 0] = inputs["input_ids"][0, 0]
    ids[1, 5] = PAD
    assert moved(input_ids=ids) < 1e-6, "what is masked behind the text is never seen"
    wider = {n: np.pad(inputs[n], ((0, 0), (0, 4)), constant_values=n == "input_ids") for n in inputs if "pix" not in n}
    assert moved(**wider) < 1e-6


def test_positions_count_tokens_that_are_no_padding() -> None:
    ids = torch.tensor([[0, 5, 6, 2, 1, 1], [1, 1, 0, 5, 1, 2], [0, 0, 0, 0, 0, 0]])
    expected = [[2, 3, 4, 5, 1, 1], [1, 1, 2, 3, 1, 4], [2, 3, 4, 5, 6, 7]]
    assert roberta.position_ids(ids).tolist() == expected


def cubic(x: float) -> float:
    """Keys' kernel with a = -0.75."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


@pytest.mark.parametrize(("before", "after"), [(3, 5), (6, 4), (18, 24)])
def test_image_positions_are_interpolated_as_on_load(before: int, after: int) -> None:
    from memvp_export.exporter.checkpoints.lazy import from_array

    table = np.random.default_rng(0).standard_normal((1 + before**2, 8)).astype(np.float32)
    shares = np.zeros((after, before))
    for row in range(after):
        at = (row + 0.5) * before / after - 0.5
        for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            shares[row, min(max(tap, 0), before - 1)] += cubic(at - tap)
    grid = np.einsum("ia,jb,abd->ijd", shares, shares, table[1:].reshape(before, before, 8)).reshape(-1, 8)
    found = interpolated(from_array(table, "positions"), before, after)
    assert found.shape == (1 + after**2, 8)
    np.testing.assert_allclose(found.load(), np.concatenate([table[:1], grid]), rtol=1e-5, atol=1e-5)
    same = from_array(table, "positions")
    assert interpolated(same, before, before) is same


def test_large_lookups_do_not_overflow_in_half(tmp_path: Path) -> None:
    """A site whose row maximum times its largest activation is far beyond what float16 holds, 65504, though what it
    adds is not: rows that cancel each other."""
    sizes = replace(PRESETS["wide-patches"], rank=2)
    folder = write_source(tmp_path, sizes, "irtr").parent
    state = {name: tensor.float() for name, tensor in official_file(folder / CHECKPOINT).items()}
    site = "cross_modal_text_layers.0.attention.output.APT"
    lean, push = torch.eye(sizes.dim)[:2]
    away = state["token4classifier"][0, 0] + state["token_type_embeddings.weight"][0]
    tokens = torch.stack([100 * push, -100 * push]).repeat(4, 1) + 0.01 * lean
    state |= {f"{site}.mm_tokens": torch.cat([tokens, torch.zeros(1, sizes.dim)])}
    state |= {f"{site}.mm.0.weight": torch.stack([lean, push])}
    state |= {f"{site}.mm.1.weight": torch.stack([40000 * away / (away @ away), -push], 1)}
    save_lightning(folder / CHECKPOINT, state, {"num_heads": sizes.heads, "max_text_len": sizes.text_length})

    model, inputs = read(folder), inputs_for(sizes, "irtr")
    keys, values = (model.weights[f"{site}.{part}"].load() for part in ("keys", "values"))
    activations = torch.relu(away @ keys.T)
    assert activations.max() ** 2 > 65504 and activations.max() * (activations @ values).abs().max() < 65504
    (part,) = model.components
    weights = {
        n: model.weights[n].load() if w.float32 else model.weights[n].load().half() for n, w in part.weights.items()
    }
    weights |= {name: torch.from_numpy(value) for name, value in part.constants.items()}
    with torch.no_grad():
        (half,) = part.forward(weights, {name: torch.from_numpy(array) for name, array in inputs.items()})
    expected = stated(official_file(folder / CHECKPOINT), sizes, "irtr", inputs)
    assert distance(half, expected) < 2e-2


@pytest.mark.parametrize("leaf", ["mm_tokens", "mm.0.weight", "mm.1.weight", "scale"])
def test_every_site_of_every_layer_matters(source_of: Callable[..., Path], leaf: str) -> None:
    sizes = PRESETS["odd"]
    model, inputs = read(source_of("irtr")), inputs_for(sizes, "irtr")
    found = list(apt_meter.sites(model.config))
    assert len(found) == 4 * sizes.layers
    weights = {name: tensor.load() for name, tensor in model.reference_weights.items()}
    weights |= {name: torch.from_numpy(value) for name, value in model.components[0].constants.items()}
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.no_grad():
        usual = apt_meter.model(weights, model.config, tensors)
        for site in found:
            name = f"{site}.APT.{leaf}"
            changed = weights | {name: weights[name] + 0.1}
            assert distance(apt_meter.model(changed, model.config, tensors), usual) > 1e-5, site


def test_the_number_of_sites_of_the_official_sizes() -> None:
    names = official_shapes(PRESETS["base"], "vqa")
    assert sum(name.endswith("mm_tokens") for name in names) == 24


def test_any_module_may_stay_in_float32(source_of: Callable[..., Path]) -> None:
    """As `--keep-fp32` asks for: what is kept meets half tensors everywhere in the pass."""
    sizes = PRESETS["wide-patches"]
    model, inputs = read(source_of("nlvr2", "wide-patches")), inputs_for(sizes, "nlvr2")
    (part,) = model.components
    loaded = {name: model.weights[name].load() for name in part.weights}
    constants = {name: torch.from_numpy(value) for name, value in part.constants.items()}
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.no_grad():
        (expected,) = part.forward(loaded | constants, tensors)
        for pattern in {module_of(name) for name in part.weights}:
            kept = {n: t if part.weights[n].float32 or is_kept(n, [pattern]) else t.half() for n, t in loaded.items()}
            (found,) = part.forward(kept | constants, tensors)
            assert distance(found, expected) < 2e-2, pattern
