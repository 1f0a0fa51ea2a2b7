"""The decoder of Stable Diffusion's autoencoder (diffusers' AutoencoderKL), under diffusers' names."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .component import Weight, linear_weights, norm_weights
from .layers import attend_heads, linear_of
from .resnet import conv_of, conv_weights, group_norm_of, resnet, resnet_weights, upsample

EPS = 1e-6
_ATTENTION = "decoder.mid_block.attentions.0"
_MIDDLE = tuple(f"decoder.mid_block.resnets.{j}" for j in range(2))


@dataclass(frozen=True)
class VaeConfig:
    """Sizes of the decoder; channels are those of the encoder's levels, which the decoder goes through backwards.
    scaling is what latents are divided by before they are decoded, outside the graph."""

    latents: int
    channels: list[int]
    layers: int
    groups: int
    post_quant: bool
    attention: bool
    scaling: float

    @property
    def factor(self) -> int:
        """Pixels of the image for each row of latents."""
        return 1 << (len(self.channels) - 1)


def vae_weights(config: VaeConfig) -> dict[str, Weight]:
    """Every tensor that the forward pass reads."""
    widest, width = config.channels[-1], config.channels[-1]
    weights = conv_weights("post_quant_conv", config.latents, config.latents, 1) if config.post_quant else {}
    weights |= conv_weights("decoder.conv_in", widest, config.latents)
    for name in _MIDDLE:
        weights |= resnet_weights(name, widest, widest, 0)
    if config.attention:
        weights |= norm_weights(f"{_ATTENTION}.group_norm", widest)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            weights |= linear_weights(f"{_ATTENTION}.{part}", widest, widest)
    for i, outputs in enumerate(reversed(config.channels)):
        for name in _resnets(config, i):
            weights |= resnet_weights(name, width, outputs, 0)
            width = outputs
        if i < len(config.channels) - 1:
            weights |= conv_weights(f"decoder.up_blocks.{i}.upsamplers.0.conv", outputs, outputs)
    return weights | norm_weights("decoder.conv_norm_out", width) | conv_weights("decoder.conv_out", 3, width)


def _resnets(config: VaeConfig, block: int) -> list[str]:
    return [f"decoder.up_blocks.{block}.resnets.{j}" for j in range(config.layers + 1)]


def vae_decoder(weights: Mapping[str, Tensor], config: VaeConfig, latents: Tensor) -> Tensor:
    """The image [B,3,fH,fW] float32, about -1 to 1, of latents [B,4,H,W] that were divided by `scaling`."""
    x = conv_of(weights, "post_quant_conv", latents) if config.post_quant else latents
    x = resnet(weights, _MIDDLE[0], conv_of(weights, "decoder.conv_in", x), config.groups, EPS)
    if config.attention:
        x = x + _attend(weights, config, x)
    x = resnet(weights, _MIDDLE[1], x, config.groups, EPS)
    for i in range(len(config.channels)):
        for name in _resnets(config, i):
            x = resnet(weights, name, x, config.groups, EPS)
        if i < len(config.channels) - 1:
            x = upsample(weights, f"decoder.up_blocks.{i}.upsamplers.0.conv", x)
    x = F.silu(group_norm_of(weights, "decoder.conv_norm_out", x, config.groups, EPS))
    return conv_of(weights, "decoder.conv_out", x).float()


def _attend(weights: Mapping[str, Tensor], config: VaeConfig, x: Tensor) -> Tensor:
    """Every pixel of [B,C,H,W] looks at all, with one head."""
    rows = group_norm_of(weights, f"{_ATTENTION}.group_norm", x, config.groups, EPS).flatten(2).transpose(1, 2)
    query, key, value = (linear_of(weights, f"{_ATTENTION}.{part}", rows) for part in ("to_q", "to_k", "to_v"))
    mixed = attend_heads(query, key, value, 1, None)
    return linear_of(weights, f"{_ATTENTION}.to_out.0", mixed).transpose(1, 2).reshape(x.shape)
