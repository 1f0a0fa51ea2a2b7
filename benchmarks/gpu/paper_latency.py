"""The paper's claim of latency: visual tokens in the input against the same tokens in memory space, in torch eager.

A LLaMA-7B-shaped decoder with random weights in float16. "input": 256 visual and 64 text tokens are one prompt of 320.
"memory": 64 text tokens are the prompt, and the 256 visual rows are keys and values beside every feed-forward block.
Both forms take turns; a prefill is the whole prompt with an empty cache, a decode step one column after it. The vision
tower is in neither. Where the memory does not hold 32 layers, fewer run, and the JSON says how many.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parts import Part, Place

VISUAL, TEXT, TABLE_ROWS, SCALE = 256, 64, 320, 0.1
BATCHES = (1, 2, 4, 8, 16, 32, 64)
PASSES, WARM_UP = 10, 3


@dataclass(frozen=True)
class Sizes:
    """Of a LLaMA."""

    width: int = 4096
    inner: int = 11008
    heads: int = 32
    layers: int = 32


DRY = Sizes(32, 64, 2, 2)


class Model:
    """Decoder layers with random weights, shared tables of memory positions, and a cache that both forms fill."""

    def __init__(self, sizes: Sizes, device: str) -> None:
        import torch

        self.sizes, self.device = sizes, device
        self.dtype = torch.float16 if device == "cuda" else torch.float32
        d, inner = sizes.width, sizes.inner
        shapes = {"qkv": (d, 3 * d), "o": (d, d), "gate_up": (d, 2 * inner), "down": (inner, d)}
        self.layers = [{name: self.normal(*shape, size=shape[0] ** -0.5) for name, shape in shapes.items()}]
        for _ in range(sizes.layers - 1):
            self.layers.append({name: torch.empty_like(w).copy_(w) for name, w in self.layers[0].items()})
        self.tables = self.normal(TABLE_ROWS, d, size=d**-0.5), self.normal(TABLE_ROWS, d)

    def normal(self, *shape: int, size: float = 1.0) -> Any:
        """Random values of that size."""
        import torch

        return torch.randn(shape, device=self.device).mul_(size).to(self.dtype)

    def forward(self, hidden: Any, past: list[tuple[Any, Any]] | None, visual: Any) -> list[tuple[Any, Any]]:
        """All layers on hidden [B,T,d] after `past`, whose keys and values are [B,H,P,hd]; `visual` [B,v,d] is the
        memory, or None. Returns the cache with the new columns."""
        import torch
        import torch.nn.functional as F

        batch, tokens, width = hidden.shape
        cache = []
        for i, w in enumerate(self.layers):
            normed = F.rms_norm(hidden, (width,))
            q, k, v = (normed @ w["qkv"]).view(batch, tokens, 3, self.sizes.heads, -1).permute(2, 0, 3, 1, 4)
            if past:
                k, v = torch.cat((past[i][0], k), 2), torch.cat((past[i][1], v), 2)
            cache.append((k, v))
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=tokens > 1)
            hidden = hidden + attended.transpose(1, 2).reshape(batch, tokens, width) @ w["o"]
            normed = F.rms_norm(hidden, (width,))
            gate, up = (normed @ w["gate_up"]).chunk(2, -1)
            ffn = (F.silu(gate) * up) @ w["down"]
            if visual is not None:
                ffn = self._looked_up(normed, ffn, visual)
            hidden = hidden + ffn
        return cache

    def _looked_up(self, hidden: Any, ffn: Any, visual: Any) -> Any:
        """The operator written out, in place where that saves a kernel: as one of its own, each call would take Python
        some 20 us more."""
        import torch.nn.functional as F

        keys, values = self.tables
        scores = hidden @ keys.T
        scores[..., :VISUAL] += hidden @ visual.mT
        activations = F.silu(scores, inplace=True)
        looked_up = activations @ values
        looked_up += activations[..., :VISUAL] @ visual
        return ffn.add_(looked_up, alpha=SCALE)


def milliseconds(device: str, run: Callable[[], object]) -> float:
    """Of one call."""
    import time

    import torch

    if device != "cuda":
        started = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - started)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def measure(model: Model, batch: int, passes: int) -> dict[str, Any]:
    """Median milliseconds of prefill and decode step in both forms, in turns."""
    d = model.sizes.width
    visual = model.normal(batch, VISUAL, d, size=d**-0.5)
    runs: dict[str, Callable[[], object]] = {}
    for form, columns, memory in (("input", VISUAL + TEXT, None), ("memory", TEXT, visual)):
        prompt, token = model.normal(batch, columns, d), model.normal(batch, 1, d)
        past = model.forward(prompt, None, memory)
        runs[f"{form} prefill"] = lambda prompt=prompt, memory=memory: model.forward(prompt, None, memory)
        runs[f"{form} decode"] = lambda token=token, past=past, memory=memory: model.forward(token, past, memory)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(passes + WARM_UP):
        for name, run in runs.items():
            taken = milliseconds(model.device, run)
            if turn >= WARM_UP:
                samples[name].append(taken)
    return {"batch": batch, "ms": {name: statistics.median(taken) for name, taken in samples.items()}}


def paper(place: Place) -> dict[str, Any]:
    """The part; on a GPU, or tiny on a CPU in a dry run."""
    import torch

    device = "cuda" if torch.cuda.is_available() and not place.dry_run else "cpu"
    if device == "cpu" and not place.dry_run:
        return {"lacks": "torch sees no CUDA GPU"}
    sizes = DRY if place.dry_run else Sizes()
    if device == "cuda":
        each = 2 * sizes.width * (4 * sizes.width + 3 * sizes.inner)
        # Half of the memory for weights, the rest for caches and activations.
        sizes = Sizes(layers=max(1, min(sizes.layers, torch.cuda.mem_get_info()[0] // 2 // each)))
    model, measured, lacks = Model(sizes, device), [], None
    with torch.inference_mode():
        for batch in (1, 3) if place.dry_run else BATCHES:
            try:
                measured.append(measure(model, batch, 2 if place.dry_run else PASSES))
            except torch.OutOfMemoryError:
                lacks = f"the GPU's memory is too small from a batch of {batch} on"
                break
            print(measured[-1], flush=True)
    found = {"sizes": vars(sizes), "dtype": str(model.dtype), "device": device, "measured": measured}
    return found | ({"lacks": lacks} if lacks and not measured else {"note": lacks} if lacks else {})


PART = Part("paper-latency", 240, paper)
