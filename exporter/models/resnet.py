"""The convolutional layers that Stable Diffusion's U-Net and decoder share, under diffusers' names.

Like the norms of `layers.py`, statistics of GroupNorm are float32 in every precision, and what is computed with float32
weights stays float32 until a module with half weights reads it.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .component import Weight, linear_weights, norm_weights
from .layers import linear_of


def conv_weights(name: str, rows: int, columns: int, kernel: int = 3) -> dict[str, Weight]:
    """`<name>.weight` [rows,columns,kernel,kernel] and `<name>.bias` [rows]."""
    return {f"{name}.weight": Weight((rows, columns, kernel, kernel)), f"{name}.bias": Weight((rows,))}


def conv_of(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,D,H,W] with the convolution `<name>`, padded so that height and width stay; in its weight's
    dtype, as `layers.linear` is."""
    weight = weights[f"{name}.weight"]
    return F.conv2d(x.to(weight.dtype), weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)


def halved(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """[B,C,2H,2W] -> [B,C,H,W] with the convolution `<name>`, in its weight's dtype."""
    weight = weights[f"{name}.weight"]
    return halve(x.to(weight.dtype), weight, weights[f"{name}.bias"])


def group_norm_of(weights: Mapping[str, Tensor], name: str, x: Tensor, groups: int, eps: float) -> Tensor:
    """GroupNorm of [B,C,H,W] in float32, cast back to x's dtype; `<name>.weight` and `<name>.bias` are float32."""
    return group_norm(x.float(), weights[f"{name}.weight"], weights[f"{name}.bias"], groups, eps).to(x.dtype)


# As operators, so that a trace has one node for each: the exporter's own way to a group's mean, and the expressions of
# halved sizes that it carries along, take most of its time on a U-Net.
@torch.library.custom_op("memvp::group_norm", mutates_args=())
def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """GroupNorm of x [B,C,H,W] float32 with weight and bias [C] float32."""
    return F.group_norm(x, groups, weight, bias, eps)


@group_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("memvp::halve", mutates_args=())
def halve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [B,C,2H,2W] -> [B,D,H,W]: the convolution weight [D,C,3,3], bias [D] with stride 2 and one pixel of padding."""
    return F.conv2d(x, weight, bias, stride=2, padding=1)


@halve.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], x.shape[2] // 2, x.shape[3] // 2)


def resnet_weights(name: str, inputs: int, outputs: int, time: int) -> dict[str, Weight]:
    """A residual block from `inputs` to `outputs` channels; time is the width of the time embedding, 0: it has none."""
    weights = norm_weights(f"{name}.norm1", inputs) | conv_weights(f"{name}.conv1", outputs, inputs)
    if time:
        weights |= linear_weights(f"{name}.time_emb_proj", outputs, time)
    weights |= norm_weights(f"{name}.norm2", outputs) | conv_weights(f"{name}.conv2", outputs, outputs)
    return weights | (conv_weights(f"{name}.conv_shortcut", outputs, inputs, 1) if inputs != outputs else {})


def resnet(
    weights: Mapping[str, Tensor], name: str, x: Tensor, groups: int, eps: float, time: Tensor | None = None
) -> Tensor:
    """`shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + W_t time)))`; time is silu of the embedding
    [1,1,t]."""
    hidden = conv_of(weights, f"{name}.conv1", F.silu(group_norm_of(weights, f"{name}.norm1", x, groups, eps)))
    if time is not None:
        hidden = hidden + linear_of(weights, f"{name}.time_emb_proj", time)[:, 0, :, None, None]
    hidden = conv_of(weights, f"{name}.conv2", F.silu(group_norm_of(weights, f"{name}.norm2", hidden, groups, eps)))
    return (conv_of(weights, f"{name}.conv_shortcut", x) if f"{name}.conv_shortcut.weight" in weights else x) + hidden


def upsample(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,C,2H,2W], the nearest pixel, then the convolution `<name>`."""
    return conv_of(weights, name, F.interpolate(x, scale_factor=2.0, mode="nearest"))
