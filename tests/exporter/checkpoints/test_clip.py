"""The CLIP tower from OpenAI's file in both forms, and from Hugging Face folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from memvp_export.exporter.checkpoints.clip import ClipCheckpoint, read_clip_tower
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models.clip_tower import TowerConfig, tower, tower_weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

WIDTH, BLOCKS, PATCH, GRID = 64, 3, 14, 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, WIDTH // 64)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Module()
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block() for _ in range(BLOCKS))


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(1 + GRID * GRID, WIDTH))
        self.proj = nn.Parameter(torch.randn(WIDTH, 32))
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer()


class Clip(nn.Module):
    """The names of OpenAI's module, with half matrices and single norms as its file has them."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Visual()
        self.token_embedding = nn.Embedding(5, 8)
        self.text_projection = nn.Parameter(torch.ones(8, 8))
        self.logit_scale = nn.Parameter(torch.ones([]))
        for name, number in (("input_resolution", 28), ("context_length", 77), ("vocab_size", 5)):
            self.register_buffer(name, torch.tensor(number))
        for module in self.visual.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
                module.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.visual.conv1(x)


@pytest.fixture(scope="module")
def clip() -> Clip:
    torch.manual_seed(0)
    return Clip().eval()


def official(clip: Clip) -> dict[str, Tensor]:
    return {n: t for n, t in clip.state_dict().items() if n.startswith("visual.") and n != "visual.proj"}


@pytest.mark.parametrize("form", ["archive", "state dict", "in state_dict"])
def test_openai_file(tmp_path: Path, clip: Clip, form: str) -> None:
    path = tmp_path / "ViT.pt"
    if form == "archive":
        torch.jit.save(torch.jit.script(clip), path)
    else:
        torch.save(clip.state_dict() if form == "state dict" else {"state_dict": clip.state_dict()}, path)
    checkpoint = read_clip_tower(path)
    sizes = (checkpoint.width, checkpoint.blocks, checkpoint.patch, checkpoint.grid, checkpoint.dtype)
    assert sizes == (WIDTH, BLOCKS, PATCH, GRID, torch.float16) and checkpoint.files == [path]
    expected = official(clip)
    assert checkpoint.weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.weights[name].load(), tensor), name
        assert checkpoint.weights[name].dtype == tensor.dtype
    needed = tower_weights(TowerConfig(WIDTH, BLOCKS, PATCH, GRID, 0, 0.1))
    assert all(checkpoint.weights[name].shape == weight.shape for name, weight in needed.items())


def vision_config(**changed: Any) -> CLIPVisionConfig:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": WIDTH // 64}
    return CLIPVisionConfig(num_hidden_layers=BLOCKS, image_size=PATCH * GRID, patch_size=PATCH, **sizes | changed)


def prefixed(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = {f"vision_model.{name}": tensor for name, tensor in load_file(path).items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(state, path)


def full_model() -> CLIPModel:
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    text |= {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    return CLIPModel(CLIPConfig(vision_config=vision_config().to_dict(), text_config=text))


@pytest.mark.parametrize("form", ["vision", "vision with prefix", "full"])
def test_hugging_face_gives_the_same_features(tmp_path: Path, form: str) -> None:
    torch.manual_seed(1)
    model = full_model() if form == "full" else CLIPVisionModel(vision_config())
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    if form == "vision with prefix":
        prefixed(tmp_path)
    checkpoint = read_clip_tower(tmp_path)
    sizes = (checkpoint.width, checkpoint.blocks, checkpoint.patch, checkpoint.grid, checkpoint.dtype)
    assert sizes == (WIDTH, BLOCKS, PATCH, GRID, torch.float32)
    assert [path.name for path in checkpoint.files] == ["config.json", "model.safetensors"]

    pixels = torch.randn(2, 3, PATCH * GRID, PATCH * GRID)
    vision = model.vision_model if form == "full" else model
    with torch.no_grad():
        hidden = vision(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        expected = getattr(vision, "vision_model", vision).post_layernorm(hidden)
        ours = features(checkpoint, pixels)
    assert torch.allclose(ours, expected, atol=1e-4)
    assert not torch.allclose(features(checkpoint, pixels.flip(0)), expected, atol=1e-2)


def features(checkpoint: ClipCheckpoint, pixels: Tensor) -> Tensor:
    config = TowerConfig(checkpoint.width, checkpoint.blocks, checkpoint.patch, checkpoint.grid, 0, 0.1)
    return tower({name: lazy.load() for name, lazy in checkpoint.weights.items()}, config, pixels)


HF_BAD: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "family": ({"model_type": "siglip"}, "family 'siglip'; expected a CLIP"),
    "layers": ({"num_hidden_layers": 12}, "num_hidden_layers is 12, the tensors have 3"),
    "width": ({"hidden_size": 128}, "hidden_size is 128, the tensors have 64"),
    "patch": ({"patch_size": 16}, "patch_size is 16, the tensors have 14"),
    "heads": ({"num_attention_heads": 2}, "2 heads on a width of 64"),
    "heads left out": ({"num_attention_heads": None}, "12 heads on a width of 64"),
    "eps": ({"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
}


@pytest.mark.parametrize("case", HF_BAD)
def test_bad_hugging_face_configs(tmp_path: Path, case: str) -> None:
    changed, message = HF_BAD[case]
    CLIPVisionModel(vision_config()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changed
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        read_clip_tower(tmp_path)


def test_bad_hugging_face_tensors(tmp_path: Path) -> None:
    CLIPVisionModel(vision_config()).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    good = dict(state)
    del state["encoder.layers.1.self_attn.k_proj.weight"]
    state["encoder.layers.1.extra.weight"] = torch.ones(1)
    save_file(state, path)
    with pytest.raises(InputError, match=r"missing \(1\): encoder.layers.1.self_attn.k_proj.weight(.|\n)*extra.weight"):
        read_clip_tower(tmp_path)
    save_file(good | {"encoder.layers.1.self_attn.k_proj.weight": torch.ones(3, 3)}, path)
    with pytest.raises(InputError, match="q, k and v of layer 1"):
        read_clip_tower(tmp_path)
    save_file(good | {"encoder.layers.1.mlp.fc1.weight": torch.ones(3, 3)}, path)
    with pytest.raises(InputError, match=r"mlp.c_fc.weight is \[3, 3\], needs \[256, 64\]"):
        read_clip_tower(tmp_path)


def resnet(state: dict[str, Tensor]) -> None:
    state["visual.layer1.0.conv1.weight"] = torch.ones(1)


def text_only(state: dict[str, Tensor]) -> None:
    for name in [name for name in state if name.startswith("visual.")]:
        del state[name]


def no_conv(state: dict[str, Tensor]) -> None:
    del state["visual.conv1.weight"]


def narrow(state: dict[str, Tensor]) -> None:
    state["visual.conv1.weight"] = torch.ones(72, 3, 14, 14)


def not_square(state: dict[str, Tensor]) -> None:
    state["visual.positional_embedding"] = torch.ones(7, WIDTH)


def flat(state: dict[str, Tensor]) -> None:
    state["visual.conv1.weight"] = torch.ones(64, 588)


def gap(state: dict[str, Tensor]) -> None:
    for name in [name for name in state if ".resblocks.1.mlp." in name]:
        del state[name]
    state["visual.ln_mid.weight"] = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (resnet, "is a ResNet CLIP"),
        (text_only, "no tensors visual"),
        (no_conv, "lacks visual.conv1.weight"),
        (narrow, "width 72 and 5 positions"),
        (not_square, "7 positions are not those of a CLIP ViT"),
        (flat, "visual.conv1.weight with 2 dimensions instead of 4"),
        (gap, r"missing \(4\): visual.transformer.resblocks.1.mlp.c_fc.weight(.|\n)*not expected \(1\): visual.ln_mid"),
    ],
)
def test_bad_openai_files(
    tmp_path: Path, clip: Clip, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    state = dict(clip.state_dict())
    change(state)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InputError, match=message):
        read_clip_tower(tmp_path / "a.pt")
