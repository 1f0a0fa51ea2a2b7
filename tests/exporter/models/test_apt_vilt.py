"""APT-ViLT's forward passes against spec 4, stated here once more on the official file in float64.

The statement shares nothing with the exporter: it runs one image at a time, cut to its valid patches as the official
code does, in shuffled order, with torch's own interpolation, softmax and norms, and every formula unfolded.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from memvp_export.examples.random_apt import TASKS
from memvp_export.examples.random_vilt import PRESETS, Sizes, write_source
from memvp_export.exporter.checkpoints.source import read_source
from memvp_export.exporter.models import apt, apt_vilt
from memvp_export.exporter.models.family import Model, load
from memvp_export.exporter.models.reference import TorchReference
from torch import Tensor

from .apt_statement import Weights, answered, attended, distance, gelu, linear, norm, official_file, prompted

SIZES: Sizes = PRESETS["odd"]
BATCH, COLUMNS = 4, 9
HEIGHT, WIDTH = SIZES.rows * SIZES.patch, SIZES.columns * SIZES.patch
# Height and width of each image in patches.
GRIDS = ((4, 6), (3, 5), (1, 6), (4, 1))


def stated_cls(w: Weights, ids: Tensor, pixels: Tensor, grid: tuple[int, int], kind: int) -> Tensor:
    """tanh(pooler) of one text without padding and one image without padding: [d]."""
    positions, types = w["text_embeddings.position_embeddings.weight"], w["token_type_embeddings.weight"]
    t = w["text_embeddings.word_embeddings.weight"][ids] + positions[: len(ids)]
    t = norm(w, "text_embeddings.LayerNorm", t + w["text_embeddings.token_type_embeddings.weight"][0], 1e-12)
    t = torch.cat([w["token4classifier"][0], t[1:]]) + types[0]

    h, wide = grid
    side, places = SIZES.patch, w["transformer.pos_embed"][0]
    line = places[1:].T.reshape(1, -1, SIZES.grid, SIZES.grid)
    line = F.interpolate(line, size=grid, mode="bilinear", align_corners=True)[0]
    patches = []
    for y in range(h):
        for x in range(wide):
            patch_pixels = pixels[:, y * side : (y + 1) * side, x * side : (x + 1) * side]
            value = torch.einsum("chw,dchw->d", patch_pixels, w["transformer.patch_embed.proj.weight"])
            patches.append(value + w["transformer.patch_embed.proj.bias"] + line[:, y, x])
    order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(5))
    v = torch.cat([w["transformer.cls_token"][0] + places[:1], torch.stack(patches)[order]]) + types[kind]

    x, d = torch.cat([t, v]), SIZES.dim
    for i in range(SIZES.blocks):
        block = f"transformer.blocks.{i}"
        n = norm(w, f"{block}.norm1", x, 1e-6)
        q, k, v = linear(w, f"{block}.attn.qkv", n).split(d, -1)
        y = linear(w, f"{block}.attn.proj", attended(q, k, v, SIZES.heads))
        x = x + prompted(w, f"{block}.attn.APT", n, y)
        n = norm(w, f"{block}.norm2", x, 1e-6)
        x = x + linear(w, f"{block}.mlp.fc2", gelu(linear(w, f"{block}.mlp.fc1", n)))
    return torch.tanh(linear(w, "pooler.dense", norm(w, "transformer.norm", x, 1e-6)[0]))


def stated(w: Weights, task: str, inputs: dict[str, np.ndarray]) -> Tensor:
    rows = []
    for b in range(BATCH):
        ids = torch.from_numpy(inputs["input_ids"][b][inputs["attention_mask"][b] != 0])
        grids = {"": GRIDS[b], "_2": GRIDS[-1 - b]}
        seen = [
            stated_cls(w, ids, torch.from_numpy(inputs[f"pixel_values{s}"][b]).double(), grids[s], 1 + bool(s))
            for s in ("", "_2")
            if f"pixel_values{s}" in inputs
        ]
        rows.append(answered(w, task, torch.cat(seen)))
    return torch.stack(rows)


def inputs_for(task: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    lengths = np.array([COLUMNS, 5, 2, 7])
    inputs = {
        "input_ids": random.integers(0, SIZES.vocab, (BATCH, COLUMNS)),
        "attention_mask": (np.arange(COLUMNS) < lengths[:, None]).astype(np.int64),
    }
    for suffix, grids in (("", GRIDS), ("_2", GRIDS[::-1]))[: 2 if task == "nlvr2" else 1]:
        # What lies in the padding must not matter: it is not zero here.
        inputs[f"pixel_values{suffix}"] = random.standard_normal((BATCH, 3, HEIGHT, WIDTH)).astype(np.float32)
        mask = np.zeros((BATCH, HEIGHT, WIDTH), np.int64)
        for row, (h, wide) in enumerate(grids):
            mask[row, : h * SIZES.patch, : wide * SIZES.patch] = 1
        inputs[f"pixel_mask{suffix}"] = mask
    return inputs


@pytest.fixture(scope="module")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(task: str) -> Path:
        if task not in made:
            made[task] = write_source(tmp_path_factory.mktemp(task), SIZES, task).parent
        return made[task]

    return make


def read(folder: Path) -> Model:
    return load(read_source(folder))


@pytest.mark.parametrize("task", TASKS)
def test_model(source_of: Callable[[str], Path], task: str) -> None:
    folder, inputs = source_of(task), inputs_for(task)
    model = read(folder)
    expected = stated(official_file(folder / "epoch=9-step=99.ckpt"), task, inputs)
    for weights in (model.reference_weights, model.weights):
        (actual,) = TorchReference(model.components, weights).run("model", inputs).values()
        assert distance(actual, expected) < 2e-6
    assert distance(expected.roll(1, 0), expected) > 0.05


@pytest.mark.parametrize("task", TASKS)
def test_every_input_moves_the_output_and_padding_does_not(source_of: Callable[[str], Path], task: str) -> None:
    model, inputs = read(source_of(task)), inputs_for(task)
    session = TorchReference(model.components, model.weights)
    (usual,) = session.run("model", inputs).values()

    def moved(**changed: np.ndarray) -> np.ndarray:
        (other,) = session.run("model", inputs | changed).values()
        return np.abs(other - usual).max(1)  # type: ignore[no-any-return]

    for name, array in inputs.items():
        other = array * 0 + 1 if name == "pixel_mask_2" else np.roll(array, 1, 0)
        assert moved(**{name: other}).max() > 1e-3, name
    for suffix in ("", "_2")[: 2 if task == "nlvr2" else 1]:
        pixels, mask = inputs[f"pixel_values{suffix}"], inputs[f"pixel_mask{suffix}"]
        assert moved(**{f"pixel_values{suffix}": pixels + 9 * (mask == 0)[:, None].astype(np.float32)}).max() < 1e-6
        inside = np.zeros_like(mask)
        inside[:, :: SIZES.patch, :: SIZES.patch] = mask[:, :: SIZES.patch, :: SIZES.patch]
        assert moved(**{f"pixel_mask{suffix}": inside}).max() == 0
    ids, mask = inputs["input_ids"].copy(), inputs["attention_mask"]
    ids[mask == 0] = 1
    ids[:, 0] = 3
    assert moved(input_ids=ids).max() < 1e-6, "padding and the first id are never seen"


def test_longer_padding_changes_nothing(source_of: Callable[[str], Path]) -> None:
    model, inputs = read(source_of("vqa")), inputs_for("vqa")
    session = TorchReference(model.components, model.weights)
    longer = {n: np.pad(inputs[n], ((0, 0), (0, 4))) for n in ("input_ids", "attention_mask")}
    (usual,), (padded,) = (session.run("model", each).values() for each in (inputs, inputs | longer))
    assert distance(padded, usual) < 1e-6


@pytest.mark.parametrize(("grid", "places"), [(12, 16), (5, 7), (3, 3), (4, 1)])
def test_interpolation_tables_are_those_of_torch(grid: int, places: int) -> None:
    table = apt_vilt.interpolation(grid, places)
    assert table.shape == (places + 1, places, grid) and table.dtype == np.float32
    assert not table[0].any()
    for count in range(1, places + 1):
        lines = F.interpolate(torch.eye(grid)[None], size=count, mode="linear", align_corners=True)[0].T
        assert np.abs(table[count, :count] - lines.numpy()).max() < 2e-6
        assert not table[count, count:].any()


def test_positions_of_every_grid_are_those_of_torch() -> None:
    torch.manual_seed(0)
    grid, places = 5, torch.randn(25, 8)
    weights = {
        "positions.by_rows": torch.from_numpy(apt_vilt.interpolation(grid, 4)),
        "positions.by_columns": torch.from_numpy(apt_vilt.interpolation(grid, 6)),
    }
    for h in range(1, 5):
        for w in range(1, 7):
            valid = torch.zeros(1, 4, 6, dtype=torch.bool)
            valid[:, :h, :w] = True
            image = F.interpolate(places.T.reshape(1, 8, grid, grid), size=(h, w), mode="bilinear", align_corners=True)
            expected = F.pad(image, (0, 6 - w, 0, 4 - h)).flatten(2).mT
            assert distance(apt_vilt.image_positions(weights, places, valid), expected) < 1e-6


def site_tensors(rows: int, rank: int, width: int) -> Weights:
    generator = torch.Generator().manual_seed(2)
    shapes = apt.official_shapes("s", rows, rank, width) | {"s.out.weight": (width, width), "s.out.bias": (width,)}
    return {name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for name, shape in shapes.items()}


def test_a_folded_site_equals_the_official_formula_to_rounding() -> None:
    from memvp_export.exporter.checkpoints.lazy import from_array

    official = site_tensors(200, 4, 64)
    hidden, mixed = torch.randn(2, 7, 64), torch.randn(2, 7, 64)
    lazy = {name: from_array(tensor.numpy(), name) for name, tensor in official.items()}
    folded = {name: tensor.load() for name, tensor in apt.fold(lazy, "s", "out").items()}
    assert {name: tuple(t.shape) for name, t in folded.items()} == {
        name: weight.shape for name, weight in apt.graph_weights("s", "out", 200, 64).items()
    }
    unfolded = apt.attend(official, "s", "out", hidden, mixed)
    assert distance(apt.attend(folded, "s", "out", hidden, mixed), unfolded) < 5e-7
    double = {name.replace("s.", "", 1) if ".APT." in name else name: t.double() for name, t in official.items()}
    expected = prompted(double, "APT", hidden[0].double(), linear(double, "s.out", mixed[0].double()))
    assert distance(unfolded[0], expected) < 1e-6


@pytest.mark.parametrize("leaf", ["mm_tokens", "mm.0.weight", "mm.1.weight", "scale"])
def test_every_tensor_of_a_site_matters(leaf: str) -> None:
    official, (hidden, mixed) = site_tensors(9, 4, 64), torch.randn(2, 1, 5, 64)
    usual = apt.attend(official, "s", "out", hidden, mixed)
    changed = official | {f"s.APT.{leaf}": official[f"s.APT.{leaf}"] + 0.3}
    assert distance(apt.attend(changed, "s", "out", hidden, mixed), usual) > 1e-3


def test_large_activations_do_not_overflow_in_half() -> None:
    """Sums and products on the way pass what float16 holds, 65504; the result does not."""
    from memvp_export.exporter.models.memory import approximated_prompt

    hidden = torch.full((1, 1, 2), 200.0, dtype=torch.float16)
    keys = torch.full((3, 2), 100.0, dtype=torch.float16)
    values = torch.tensor([[2.0, 0], [-2, 0], [0, 0]], dtype=torch.float16)
    attention = torch.full((1, 1, 2), 5.0, dtype=torch.float16)
    assert approximated_prompt(hidden, attention, keys, values).tolist() == [[[5, 5]]]
    moved = approximated_prompt(hidden / 100, attention, keys, values + 2**-6)
    assert moved[0, 0, 1] == torch.tensor(5 + 400 * 1200 / 64).half()
