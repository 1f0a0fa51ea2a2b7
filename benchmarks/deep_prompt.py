"""What APT is measured against: the same ViLT with deep prompts in the place of APT's, or with none, as a bundle.

    python benchmarks/deep_prompt.py vilt.bundle deep.bundle [--none]
    memvp-export bench vilt.bundle --compare deep.bundle --backend onnxruntime --prompt-tokens 40

Deep prompts are as many tokens at the same sites as APT has, run as the released module does (spec 9): they join the
rows that enter each attention, and their queries are dropped. Their values are those of APT's keys: the bundle is for
`bench`, `inspect` and `trt`, its answers mean nothing.
"""

import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from memvp_export import Bundle
from memvp_export.exporter.bundle import graph_entry, new_bundle
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs.publish import write_graph
from memvp_export.exporter.graphs.stored import stored_weights
from memvp_export.exporter.graphs.trace import trace
from memvp_export.exporter.models import apt_vilt
from memvp_export.exporter.models.component import Component, Depth, constants_of
from memvp_export.exporter.models.layers import attention, layer_norm_of, linear_of, merge_heads, split_heads
from memvp_export.exporter.progress import Progress
from torch import Tensor


def rival(config: apt_vilt.Config, prompts: bool) -> Component:
    """The component `model` with deep prompts `<site>.APT.keys` [p,d], or without any."""
    (component,) = apt_vilt.components(config)

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        return (apt_vilt.classify(weights, config, apt_vilt.stream(weights, config, inputs, block)[-1]),)

    unused = ".APT.values" if prompts else ".APT."
    weights = {name: weight for name, weight in component.weights.items() if unused not in name}
    assert component.depth is not None
    depth = Depth(component.depth.stems, lambda most: rival(replace(config, blocks=min(most, config.blocks)), prompts))
    return replace(component, weights=weights, forward=forward, depth=depth)


def block(weights: Mapping[str, Tensor], config: apt_vilt.Config, name: str, x: Tensor, bias: Tensor) -> Tensor:
    """A block of ViLT whose prompts, if it has any, enter the attention beside the rows x [B,N,d]."""
    entering = normed = layer_norm_of(weights, f"{name}.norm1", x, apt_vilt.BLOCK_EPS)
    if (prompts := weights.get(f"{name}.attn.APT.keys")) is not None:
        entering = torch.cat([normed, prompts.expand(normed.shape[0], -1, -1)], 1)
        bias = F.pad(bias, (0, prompts.shape[0]))
    packed = linear_of(weights, f"{name}.attn.qkv", entering).chunk(3, -1)
    query, key, value = (split_heads(part, config.heads) for part in packed)
    mixed = merge_heads(attention(query[:, :, : x.shape[1]], key, value, bias))
    return apt_vilt.feed_forward(weights, name, x + linear_of(weights, f"{name}.attn.{apt_vilt.PROJECTION}", mixed))


def write_rival(bundle: Bundle, output: Path, prompts: bool) -> Bundle:
    """The bundle of an APT-ViLT again as `output`, with `rival` in its own precision and no samples."""
    manifest: dict[str, Any] = dict(bundle.manifest)
    if manifest["family"] != "apt-vilt":
        raise InputError(f"{bundle.root} is of family {manifest['family']}; the comparison is made for apt-vilt.")
    precision = manifest["precision"]
    (entry,) = manifest["components"].values()
    component = rival(apt_vilt.Config.from_dict(manifest["config"]), prompts)
    graph = bundle.graph(component.name)
    tensors = {**stored_weights(graph, component), **constants_of([component])}
    file = f"graphs/{component.name}.onnx"
    with new_bundle(output) as writer:
        opset = entry["graphs"][precision]["opset"]
        write_graph(trace(component, precision, opset), tensors, writer, file, Progress())
        for name in manifest["files"]:
            if name.startswith("tokenizer/"):
                shutil.copyfile(bundle.path(name), writer.path(name))
                writer.record(name)
        components = {component.name: {**entry, "graphs": {precision: graph_entry(file, opset)}}}
        writer.write_manifest({**manifest, "components": components, "engines": [], "samples": None})
    return Bundle.open(output)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--none"]
    if len(words) != 2:
        raise SystemExit(__doc__)
    try:
        write_rival(Bundle.open(words[0]), Path(words[1]), prompts="--none" not in sys.argv)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
