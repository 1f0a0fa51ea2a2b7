"""OpenAI's CLIP file (TorchScript archive or state dict), both towers, under Hugging Face's names (spec 1.9)."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import InputError
from .huggingface_clip import INNER, LAYERS, OUTER
from .lazy import LazyTensor
from .matching import some
from .torch_file import flatten_module, read_torch_file

_TOWERS = {"visual.transformer.resblocks.": f"vision_model.{LAYERS}", "transformer.resblocks.": f"text_model.{LAYERS}"}
_OUTSIDE = {
    **{official: f"vision_model.{name}" for name, official in OUTER.items()},
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "logit_scale": "logit_scale",
}
_INSIDE = {official: name for name, official in INNER.items()}
# Hugging Face holds these as linear layers, OpenAI as matrices that rows are multiplied by.
_TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_SIZES = ("input_resolution", "context_length", "vocab_size")


def read_openai_clip(path: Path) -> dict[str, LazyTensor]:
    """All tensors by Hugging Face's names, q, k and v apart; a name that CLIP does not have stays as it is.

    InputError for another file, and for a ResNet CLIP.
    """
    found = flatten_module(read_torch_file(path), str(path))
    refuse_resnet(found, path, "ViT-B-32.pt")
    if "visual.conv1.weight" not in found or "token_embedding.weight" not in found:
        raise InputError(
            f"{path} is no OpenAI CLIP file: it has not both visual.conv1.weight and token_embedding.weight, but "
            f"{some(sorted(found)[:3])}. Give ViT-B-32.pt, or the folder of a Hugging Face CLIP."
        )
    renamed: dict[str, LazyTensor] = {}
    for name, tensor in found.items():
        if name not in _SIZES:
            renamed |= _renamed(name, tensor)
    return renamed


def refuse_resnet(names: Iterable[str], where: object, example: str) -> None:
    """InputError for the tensors of a CLIP whose image tower is a ResNet; example is a file of another one."""
    if any(name.startswith(("visual.layer1.", "visual.attnpool.")) for name in names):
        raise InputError(f"{where} is a ResNet CLIP; give a ViT, such as {example}.")


def _renamed(name: str, tensor: LazyTensor) -> Mapping[str, LazyTensor]:
    if name in _TRANSPOSED and len(tensor.shape) == 2:
        return {_TRANSPOSED[name]: tensor.mapped(tensor.shape[::-1], lambda matrix: matrix.T.contiguous())}
    tower = next((prefix for prefix in _TOWERS if name.startswith(prefix)), None)
    if tower is None:
        return {_known(name, _OUTSIDE): tensor}
    number, _, inner = name.removeprefix(tower).partition(".")
    layer = f"{_TOWERS[tower]}{number}"
    if inner.startswith("attn.in_proj_") and tensor.shape and tensor.shape[0] % 3 == 0:
        kind, rows = inner.removeprefix("attn.in_proj_"), tensor.shape[0] // 3
        parts = (tensor.rows(i * rows, (i + 1) * rows) for i in range(3))
        return {f"{layer}.self_attn.{part}_proj.{kind}": rows for part, rows in zip("qkv", parts, strict=True)}
    return {f"{layer}.{_known(inner, _INSIDE)}": tensor}


def _known(name: str, names: Mapping[str, str]) -> str:
    """The other name of a tensor, or of the module that it belongs to."""
    module, _, kind = name.rpartition(".")
    if name in names:
        return names[name]
    return f"{names[module]}.{kind}" if module in names else name
