"""LLaMA folders of Meta and of Hugging Face: the same weights in one layout, and what can be wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from memvp_export.exporter.checkpoints.llama import LlamaCheckpoint, read_llama
from memvp_export.exporter.errors import InputError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

D, HEADS, LAYERS, FFN, VOCAB = 32, 4, 2, 48, 40
PARAMS = {"dim": D, "n_heads": HEADS, "n_layers": LAYERS, "norm_eps": 1e-6, "vocab_size": -1, "multiple_of": 16}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=D, num_attention_heads=HEADS, num_hidden_layers=LAYERS, intermediate_size=FFN, vocab_size=VOCAB
    )
    return LlamaForCausalLM(config)


def meta_weights(model: LlamaForCausalLM) -> dict[str, Tensor]:
    """The weights of a Hugging Face model as Meta's files hold them (spec 1.9), in half."""
    inner = {"q": "wq", "k": "wk", "v": "wv", "o": "wo"}
    mlp = {"gate": "w1", "down": "w2", "up": "w3"}
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}

    def pairs(w: Tensor) -> Tensor:
        return w.view(HEADS, 2, D // HEADS // 2, D).transpose(1, 2).reshape(D, D)

    meta = {
        "tok_embeddings.weight": state["model.embed_tokens.weight"],
        "norm.weight": state["model.norm.weight"],
        "output.weight": state["lm_head.weight"],
        "rope.freqs": torch.ones(D // HEADS // 2),
    }
    for i in range(LAYERS):
        hf, out = f"model.layers.{i}.", f"layers.{i}."
        for name, short in inner.items():
            weight = state[f"{hf}self_attn.{name}_proj.weight"]
            meta[f"{out}attention.{short}.weight"] = pairs(weight) if name in "qk" else weight
        for name, short in mlp.items():
            meta[f"{out}feed_forward.{short}.weight"] = state[f"{hf}mlp.{name}_proj.weight"]
        meta[f"{out}attention_norm.weight"] = state[f"{hf}input_layernorm.weight"]
        meta[f"{out}ffn_norm.weight"] = state[f"{hf}post_attention_layernorm.weight"]
    return {name: tensor + i * 1e-3 if "norm" in name else tensor for i, (name, tensor) in enumerate(meta.items())}


def meta_folder(folder: Path, weights: dict[str, Tensor], shards: int = 1, **changed: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(PARAMS | changed))
    for i in range(shards):
        part = {name: piece(name, tensor, i, shards) for name, tensor in weights.items()}
        torch.save(part, folder / f"consolidated.{i:02}.pth")
    return folder


def piece(name: str, tensor: Tensor, i: int, shards: int) -> Tensor:
    if tensor.dim() == 1:
        return tensor.clone()
    columns = ("tok_embeddings.weight", "wo.weight", "w2.weight")
    return tensor.chunk(shards, 1 if name.endswith(columns) else 0)[i].clone()


def hf_folder(folder: Path, model: LlamaForCausalLM, **changed: Any) -> Path:
    model.save_pretrained(folder)
    rewrite_config(folder, **changed)
    return folder


def rewrite_config(folder: Path, **changed: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "REMOVED"}))


def loaded(checkpoint: LlamaCheckpoint) -> dict[str, Tensor]:
    tensors = {name: lazy.load() for name, lazy in checkpoint.weights.items()}
    assert all(tensors[name].shape == lazy.shape for name, lazy in checkpoint.weights.items())
    return tensors


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_meta_shards_are_the_unsplit_model(tmp_path: Path, model: LlamaForCausalLM, shards: int) -> None:
    weights = meta_weights(model)
    checkpoint = read_llama(meta_folder(tmp_path, weights, shards))
    sizes = (checkpoint.dim, checkpoint.layers, checkpoint.heads, checkpoint.ffn_dim, checkpoint.vocab)
    assert sizes == (D, LAYERS, HEADS, FFN, VOCAB)
    assert (checkpoint.norm_eps, checkpoint.rope_theta, checkpoint.dtype) == (1e-6, 10000.0, torch.float16)
    assert [path.name for path in checkpoint.files] == [
        "params.json",
        *(f"consolidated.{i:02}.pth" for i in range(shards)),
    ]
    expected = {name: tensor.half() for name, tensor in model.state_dict().items()}
    found = loaded(checkpoint)
    for name, tensor in expected.items():
        if "norm" not in name:
            assert torch.equal(found[name], tensor), name
    assert torch.equal(found["model.norm.weight"], weights["norm.weight"])
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        assert torch.equal(found[f"{layer}.input_layernorm.weight"], weights[f"layers.{i}.attention_norm.weight"])
        assert torch.equal(found[f"{layer}.post_attention_layernorm.weight"], weights[f"layers.{i}.ffn_norm.weight"])


def test_row_order_gives_the_scores_of_metas_rotation(tmp_path: Path, model: LlamaForCausalLM) -> None:
    weights = meta_weights(model)
    checkpoint = read_llama(meta_folder(tmp_path, weights))
    x = torch.randn(5, D)
    angles = torch.outer(torch.arange(5.0), 10000 ** (-torch.arange(0, D // HEADS, 2) / (D // HEADS)))

    def neighbours(w: Tensor) -> Tensor:
        y = torch.view_as_complex((x @ w.float().T).view(5, HEADS, -1, 2))
        return torch.view_as_real(y * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(2)

    def halves(w: Tensor) -> Tensor:
        a, b = (x @ w.float().T).view(5, HEADS, -1).chunk(2, -1)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def scores(q: Tensor, k: Tensor) -> Tensor:
        return torch.einsum("thd,shd->hts", q, k)

    meta = scores(*(neighbours(weights[f"layers.0.attention.w{n}.weight"]) for n in "qk"))
    ours = scores(*(halves(checkpoint.weights[f"model.layers.0.self_attn.{n}_proj.weight"].load()) for n in "qk"))
    unordered = scores(*(halves(weights[f"layers.0.attention.w{n}.weight"]) for n in "qk"))
    assert torch.allclose(meta, ours, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(meta, unordered, rtol=1e-2, atol=1e-5)


def test_hugging_face_single_and_sharded(tmp_path: Path, model: LlamaForCausalLM) -> None:
    checkpoint = read_llama(hf_folder(tmp_path / "one", model))
    sizes = (checkpoint.dim, checkpoint.layers, checkpoint.heads, checkpoint.ffn_dim, checkpoint.vocab)
    assert sizes == (D, LAYERS, HEADS, FFN, VOCAB) and checkpoint.dtype == torch.float32
    assert (checkpoint.norm_eps, checkpoint.rope_theta) == (1e-6, 10000.0)
    assert_same(loaded(checkpoint), dict(model.state_dict()))
    model.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    many = read_llama(tmp_path / "many")
    assert len(many.files) > 4
    assert_same(loaded(many), dict(model.state_dict()))


def test_hugging_face_variants(tmp_path: Path, model: LlamaForCausalLM) -> None:
    folder = hf_folder(tmp_path / "tied", model, tie_word_embeddings=True)
    state = dict(model.state_dict())
    tied = state | {"lm_head.weight": state["model.embed_tokens.weight"]}
    assert_same(loaded(read_llama(folder)), tied)

    old = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    old["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(old, folder / "model.safetensors")
    rewrite_config(folder, tie_word_embeddings=False, rope_parameters="REMOVED", rope_theta=20000, rope_scaling=None)
    checkpoint = read_llama(folder)
    assert checkpoint.rope_theta == 20000.0
    assert_same(loaded(checkpoint), state)
    rewrite_config(folder, rope_theta="REMOVED", rms_norm_eps=1e-5, num_key_value_heads="REMOVED", head_dim="REMOVED")
    assert (read_llama(folder).rope_theta, read_llama(folder).norm_eps) == (10000.0, 1e-5)
    rewrite_config(folder, rope_parameters={"rope_theta": 30000.0, "rope_type": "default"})
    assert read_llama(folder).rope_theta == 30000.0


HF_BAD: dict[str, tuple[dict[str, Any], str]] = {
    "family": ({"model_type": "mistral"}, "describes a mistral model"),
    "class": ({"architectures": ["GPT2LMHeadModel"]}, "expected a LLaMA"),
    "no family": ({"model_type": "REMOVED", "architectures": "REMOVED"}, "expected a LLaMA"),
    "groups": ({"num_key_value_heads": 2}, "num_key_value_heads is 2 and num_attention_heads 4"),
    "scaling": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "scales the rotary embedding"),
    "new scaling": ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "scales the rotary embedding"),
    "quantized": ({"quantization_config": {"bits": 4}}, "weights are quantized"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "width": ({"hidden_size": 64}, "hidden_size is 64, the tensors have 32"),
    "layers": ({"num_hidden_layers": 3}, "num_hidden_layers is 3, the tensors have 2"),
    "vocabulary": ({"vocab_size": 41, "intermediate_size": 49}, "intermediate_size is 49.*vocab_size is 41"),
    "heads": ({"num_attention_heads": 5, "num_key_value_heads": 5}, "5 heads do not divide"),
    "head width": ({"head_dim": 16}, "heads of 16 do not make up"),
    "no eps": ({"rms_norm_eps": "REMOVED"}, "has no rms_norm_eps"),
    "eps": ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small', expected a number"),
    "size": ({"hidden_size": -1}, "hidden_size is -1, expected an integer"),
}


@pytest.mark.parametrize("case", HF_BAD)
def test_bad_hugging_face_configs(tmp_path: Path, model: LlamaForCausalLM, case: str) -> None:
    changed, message = HF_BAD[case]
    with pytest.raises(InputError, match=message):
        read_llama(hf_folder(tmp_path, model, **changed))


def test_bad_hugging_face_tensors(tmp_path: Path, model: LlamaForCausalLM) -> None:
    folder = hf_folder(tmp_path, model)
    state = load_file(folder / "model.safetensors")
    state["model.layers.1.self_attn.q_proj.bias"] = torch.ones(D)
    state["model.layers.1.mlp.up_proj.weight"] = torch.ones(FFN, D + 1)
    del state["model.layers.0.input_layernorm.weight"], state["lm_head.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError) as error:
        read_llama(folder)
    for line in (
        "missing (2): model.layers.0.input_layernorm.weight, lm_head.weight",
        "not expected (1): model.layers.1.self_attn.q_proj.bias",
        "wrong shape (1): model.layers.1.mlp.up_proj.weight is [48, 33], needs [48, 32]",
    ):
        assert line in str(error.value)


META_BAD: dict[str, tuple[dict[str, Any], str]] = {
    "groups": ({"n_kv_heads": 2}, "n_kv_heads is 2 and n_heads 4"),
    "base": ({"rope_theta": 500000.0}, "another rotary base"),
    "scaled": ({"use_scaled_rope": True}, "another rotary base or scaling"),
    "width": ({"dim": 48}, "dim is 48, the tensors have 32"),
    "layers": ({"n_layers": 5}, "n_layers is 5, the tensors have 2"),
    "vocabulary": ({"vocab_size": 32000}, "vocab_size is 32000, the tensors have 40"),
    "heads": ({"n_heads": 3}, "3 heads do not divide"),
    "no eps": ({"norm_eps": None}, "has no norm_eps"),
}


@pytest.mark.parametrize("case", META_BAD)
def test_bad_meta_params(tmp_path: Path, model: LlamaForCausalLM, case: str) -> None:
    changed, message = META_BAD[case]
    with pytest.raises(InputError, match=message):
        read_llama(meta_folder(tmp_path, meta_weights(model), **changed))


def test_missing_shards(tmp_path: Path, model: LlamaForCausalLM) -> None:
    folder = meta_folder(tmp_path, meta_weights(model), 4)
    (folder / "consolidated.01.pth").unlink()
    with pytest.raises(InputError, match=r"lacks consolidated\.01\.pth"):
        read_llama(folder)
    meta_folder(folder, meta_weights(model), 4)
    (folder / "consolidated.03.pth").unlink()
    with pytest.raises(InputError, match=r"holds 3 of 4 shards.*Download consolidated\.03\.pth"):
        read_llama(folder)
    (folder / "consolidated.02.pth").unlink()
    (folder / "consolidated.01.pth").unlink()
    with pytest.raises(InputError, match="holds 1 of 4 shards"):
        read_llama(folder)


def without_norm(weights: dict[str, Tensor]) -> None:
    del weights["layers.1.ffn_norm.weight"]


def with_bias(weights: dict[str, Tensor]) -> None:
    weights["layers.0.attention.wq.bias"] = torch.ones(D)


def narrow_output(weights: dict[str, Tensor]) -> None:
    weights["output.weight"] = torch.ones(VOCAB, D - 2)


def integers(weights: dict[str, Tensor]) -> None:
    weights["layers.0.attention.wq.weight"] = torch.ones(D, D, dtype=torch.int8)


def no_layers(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if name.startswith("layers.")]:
        del weights[name]


def flat_embedding(weights: dict[str, Tensor]) -> None:
    weights["tok_embeddings.weight"] = torch.ones(D)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_norm, r"missing \(1\): layers\.1\.ffn_norm\.weight"),
        (with_bias, r"not expected \(1\): layers\.0\.attention\.wq\.bias"),
        (narrow_output, r"output\.weight is \[40, 30\], needs \[40, 32\]"),
        (integers, "wq.weight is torch.int8"),
        (no_layers, "n_layers is 2, the tensors have 0"),
        (flat_embedding, r"tok_embeddings\.weight is \[32\], needs \[1, 32\]"),
    ],
)
def test_bad_meta_tensors(
    tmp_path: Path, model: LlamaForCausalLM, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    weights = meta_weights(model)
    change(weights)
    with pytest.raises(InputError, match=message):
        read_llama(meta_folder(tmp_path, weights))


def test_shards_of_two_models(tmp_path: Path, model: LlamaForCausalLM) -> None:
    weights = meta_weights(model)
    folder = meta_folder(tmp_path, weights, 2)
    second = torch.load(folder / "consolidated.01.pth")
    torch.save({**second, "layers.0.attention.wq.weight": torch.ones(4, D)}, folder / "consolidated.01.pth")
    with pytest.raises(InputError, match=r"consolidated.01.pth: layers.0.attention.wq.weight: \[4, 32\].*does not fit"):
        read_llama(folder)
    second.pop("norm.weight")
    torch.save(second, folder / "consolidated.01.pth")
    with pytest.raises(InputError, match=r"are not shards of one model; only one has: norm\.weight"):
        read_llama(folder)


def test_folders_that_are_no_llama(tmp_path: Path, model: LlamaForCausalLM) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_llama(tmp_path / "none")
    with pytest.raises(InputError, match="is no LLaMA folder"):
        read_llama(tmp_path)
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(InputError, match=r"no consolidated\.00\.pth"):
        read_llama(tmp_path)
    with pytest.raises(InputError, match="is a file, expected a folder"):
        read_llama(tmp_path / "params.json")
    (tmp_path / "params.json").unlink()
    torch.save({}, tmp_path / "consolidated.00.pth")
    with pytest.raises(InputError, match=r"params\.json is not a file"):
        read_llama(tmp_path)


def test_opening_reads_no_weights(tmp_path: Path, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = meta_folder(tmp_path, meta_weights(model), 2)

    def forbidden(*_: Any) -> None:
        raise AssertionError("a tensor was loaded")

    from memvp_export.exporter.checkpoints import torch_file

    monkeypatch.setattr(torch_file, "_load", forbidden)
    checkpoint = read_llama(folder)
    with pytest.raises(AssertionError):
        checkpoint.weights["lm_head.weight"].load()
