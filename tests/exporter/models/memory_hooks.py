"""A memory added to the FFNs of transformers' own models, as spec 2.2 states it, and what they write then."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memvp_export.exporter.data import Request
from torch import Tensor, nn
from torch.nn import functional as F

_TEXTS = ("what is it?", "is there a rather long and winding question about the picture here or not, after all?", "")


@contextmanager
def memory_added(
    ffns: Iterable[tuple[nn.Module, nn.Module]],
    visual: Tensor,
    weights: Mapping[str, Tensor],
    activation: Callable[[Tensor], Tensor],
) -> Iterator[None]:
    """`act(x (Z + Pk)^T) (Z + Pv)`, Z padded with zeros, is added to what each FFN gives; an FFN is the module that
    reads x and the one that gives its result."""
    padding = weights["adapter_emb1"].shape[0] - visual.shape[1]
    keys, values = (F.pad(visual, (0, 0, 0, padding)) + weights[name] for name in ("adapter_emb1", "adapter_emb2"))
    handles = []
    for reads, gives in ffns:
        seen: list[Tensor] = []

        def look(_: Any, inputs: tuple[Tensor], seen: list[Tensor] = seen) -> None:
            seen.append(inputs[0])

        def add(_: Any, __: Any, out: Tensor, seen: list[Tensor] = seen) -> Tensor:
            return out + activation(seen.pop() @ keys.transpose(1, 2)) @ values

        handles += [reads.register_forward_pre_hook(look), gives.register_forward_hook(add)]
    yield
    for handle in handles:
        handle.remove()


def bart_ffns(model: Any, places: str = "both") -> list[tuple[nn.Module, nn.Module]]:
    """The FFNs of a BartForConditionalGeneration, those of its encoder and of its decoder, or of one of the two."""
    sides = {"encoder": model.model.encoder.layers, "decoder": model.model.decoder.layers}
    return [(layer.fc1, layer.fc2) for side in sides if places in (side, "both") for layer in sides[side]]


def t5_ffns(model: Any, places: str = "both") -> list[tuple[nn.Module, nn.Module]]:
    """The same of a T5ForConditionalGeneration."""
    sides = {"encoder": model.encoder.block, "decoder": model.decoder.block}
    ffns = [block.layer[-1].DenseReluDense for side in sides if places in (side, "both") for block in sides[side]]
    return [(ffn, ffn) for ffn in ffns]


def visual_memory(adapter: Mapping[str, Tensor], image: Path | None, rows: int) -> Tensor:
    """`lambda f(z)` [1,rows,d] of the features [L,f] in a file, max-pooled to `rows`; 0 without an image."""
    w1, b1, w2, b2 = (adapter[f"adapter_proj.{name}"] for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"))
    if image is None:
        return torch.zeros(1, rows, w2.shape[0])
    features = torch.from_numpy(np.load(image))
    side = round(len(features) ** 0.5)
    pooled = F.adaptive_max_pool2d(features.T.reshape(1, -1, side, side), round(rows**0.5))
    return 0.01 * (F.silu(pooled.flatten(2).transpose(1, 2) @ w1.T + b1) @ w2.T + b2)


def requests_of(source: Path) -> list[Request]:
    """Texts of several lengths, one of them cut, with and without an image."""
    images = [source / "first.npy", None, source / "second.npy"]
    return [Request(f"{i}-{j}", text, image) for i, text in enumerate(_TEXTS) for j, image in enumerate(images)]


def generated(
    model: Any,
    tokenizer: Any,
    ffns: Sequence[tuple[nn.Module, nn.Module]],
    activation: Callable[[Tensor], Tensor],
    source: Path,
    requests: Sequence[Request],
    **settings: Any,
) -> list[list[int]]:
    """What transformers writes to the requests, token by token, with the memory of the adapter in `source`."""
    adapter = torch.load(source / "memvp.pth", weights_only=True)
    tables = {name: adapter[name][0] for name in ("adapter_emb1", "adapter_emb2")}
    found = []
    for request in requests:
        text = tokenizer("vqa: " + request.text, return_tensors="pt", truncation=True, max_length=20)
        visual = visual_memory(adapter, request.image, len(tables["adapter_emb1"]))
        with torch.no_grad(), memory_added(ffns, visual, tables, activation):
            ids = model.generate(
                input_ids=text["input_ids"],
                attention_mask=text["attention_mask"],
                do_sample=False,
                **{"num_beams": 1, "max_length": 20, **settings},
            )
        assert ids[0, 0] == model.config.decoder_start_token_id
        found.append(ids[0, 1:].tolist())
    return found
