"""Kernels in the second decoder layer of a MemVP-LLaMA's engine, and how many were expected."""

from collections.abc import Mapping
from typing import Any

# (lowering, cache, profile) -> (attention, feed-forward), see `counts`: of a build of
# `examples.random_source --preset odd` in fp16, by TensorRT 11.4 over TensorRT-RTX 1.7.1 without a GPU, from its log
# (docs/lowering.md). Attention was the same with the plugin. The plugin in place was counted in the demo model's.
EXPECTED = {
    ("native", "delta", "prefill"): (4, 9),
    ("native", "delta", "decode"): (1, 8),
    ("native", "concat", "prefill"): (4, 9),
    ("native", "concat", "decode"): (4, 8),
    ("native", "in_place", "prefill"): (5, 9),
    ("native", "in_place", "decode"): (2, 8),
    ("plugin", "delta", "prefill"): (4, 7),
    ("plugin", "delta", "decode"): (1, 6),
    ("plugin", "in_place", "prefill"): (5, 7),
    ("plugin", "in_place", "decode"): (2, 6),
}
_LAYER = "model.layers.{}.self_attn.{}_proj/MatMul"


def counts(record: Mapping[str, Any]) -> dict[str, tuple[int, int] | None]:
    """By profile, the kernels between the products of q, k, v and the output projection, and those from there to the
    next layer's q, k, v: the feed-forward block with the norm before and the one behind it. None where an engine does
    not say which product is which. Layers that write no numbers (shapes, waits, masks) are no kernels."""
    from memvp_export.exporter.inspection.engine_summary import by_profile

    return {profile: _counted(layers) for profile, layers in by_profile(record).items()}


def _counted(layers: list[Mapping[str, Any]]) -> tuple[int, int] | None:
    from memvp_export.exporter.engines.readback import BYTES

    kernels = [layer for layer in layers if any(part["dtype"] in BYTES for part in layer["outputs"])]

    def places(layer: int, *products: str) -> list[int]:
        names = {_LAYER.format(layer, product) for product in products}
        return [i for i, one in enumerate(kernels) if one["matrix"] and names & {*one["onnx"]}]

    into, out, following = places(1, *"qkv"), places(1, "o"), places(2, *"qkv")
    if not (into and out and following):
        return None
    return min(out) - max(into) - 1, min(following) - max(out) - 1
