"""A Hugging Face LLaMA folder: config.json and safetensors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from .json_file import integer, number, read_object
from .llama_layout import EMBEDDING, GATE, HEAD, LlamaCheckpoint, check_claims, check_heads, measured, shapes
from .matching import match
from .safetensors_folder import read_safetensors_folder

ROPE_THETA = 10000.0
IGNORED = ("*.rotary_emb.inv_freq",)
KEYS = {"dim": "hidden_size", "layers": "num_hidden_layers", "ffn_dim": "intermediate_size", "vocab": "vocab_size"}


def read_huggingface_llama(folder: Path) -> LlamaCheckpoint:
    """Reads the folder, with names as LlamaForCausalLM or LlamaModel saves them.

    InputError for another family, grouped-query attention, scaled rotary embeddings, quantized weights, and tensors
    that do not fit the config.
    """
    path = folder / "config.json"
    config = read_object(path)
    _check_family(config, path)
    heads = integer(config, "num_attention_heads", path)
    groups = integer(config, "num_key_value_heads", path, heads)
    if groups != heads:
        raise InputError(
            f"{path}: num_key_value_heads is {groups} and num_attention_heads {heads}. MemVP is built on LLaMA-1, "
            "where they are equal; grouped-query attention is not supported."
        )
    found, files = read_safetensors_folder(folder)
    if not any(name.startswith("model.") for name in found):
        found = {name if name == HEAD else f"model.{name}": tensor for name, tensor in found.items()}
    if config.get("tie_word_embeddings") and EMBEDDING in found:
        found[HEAD] = replace(found[EMBEDDING], origin=f"{found[EMBEDDING].origin} (tied)")

    claims = {size: integer(config, key, path) for size, key in KEYS.items()}
    sizes = measured(found, EMBEDDING, GATE, "model.layers.", claims)
    check_claims(sizes, claims, KEYS, path)
    check_heads(sizes, heads, path)
    if integer(config, "head_dim", path, sizes.dim // heads) * heads != sizes.dim:
        raise InputError(f"{path}: {heads} heads of {config['head_dim']} do not make up the width {sizes.dim}.")
    weights = match(found, shapes(sizes), str(folder), IGNORED)
    return LlamaCheckpoint(
        dim=sizes.dim,
        layers=sizes.layers,
        heads=heads,
        ffn_dim=sizes.ffn_dim,
        vocab=sizes.vocab,
        norm_eps=number(config, "rms_norm_eps", path),
        rope_theta=_rope_theta(config, path),
        dtype=weights[EMBEDDING].dtype,
        weights=weights,
        files=[path, *files],
    )


def _check_family(config: dict[str, Any], path: Path) -> None:
    family, classes = config.get("model_type"), config.get("architectures") or []
    known = family == "llama" if family else bool(classes)
    if not known or not all(str(name).startswith("Llama") for name in classes):
        raise InputError(f"{path} describes a {family} model {classes}; expected a LLaMA (model_type 'llama').")
    if config.get("quantization_config"):
        raise InputError(f"{path}: the weights are quantized. Take the model in fp32, fp16 or bf16.")
    if config.get("hidden_act", "silu") != "silu":
        raise InputError(f"{path}: hidden_act is {config['hidden_act']!r}; LLaMA's is 'silu'.")


def _rope_theta(config: dict[str, Any], path: Path) -> float:
    # transformers 5 moved rope_theta and the scaling into rope_parameters.
    new, scaling = config.get("rope_parameters") or {}, config.get("rope_scaling")
    if scaling or not isinstance(new, dict) or new.get("rope_type", "default") != "default":
        raise InputError(f"{path} scales the rotary embedding ({scaling or new}), which is not supported.")
    return number(new, "rope_theta", path, None) or number(config, "rope_theta", path, ROPE_THETA)
