"""APT on Stable Diffusion (spec 7): the three graphs that make an image of a text, under the names of Hugging Face.

Height and width are counted in the largest step of the U-Net: `height` of 8 is 8 * `unit` pixels, whatever the sizes of
the model are.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from ..dims import multiple
from .clip_encoder import stem_of
from .clip_text import NAME, TextConfig, hidden_states, text_weights
from .component import Component, Depth, Dim, Port
from .unet import FREQUENCIES, UNetConfig, frequencies, unet, unet_weights
from .vae_decoder import VaeConfig, vae_decoder, vae_weights


@dataclass(frozen=True)
class Config:
    """Everything the graphs depend on, and the size of an image in pixels where nobody says; longest_side is the
    largest that the graphs take."""

    text: TextConfig
    unet: UNetConfig
    vae: VaeConfig
    height: int
    width: int
    longest_side: int
    max_batch: int

    @property
    def unit(self) -> int:
        """Height and width of an image are multiples of this."""
        return self.unet.multiple * self.vae.factor

    def at(self, most: int) -> "Config":
        """The same with at most so many layers in the text encoder."""
        return replace(self, text=replace(self.text, encoder=self.text.encoder.at(most)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `from_dict` reads it back."""
        data: dict[str, Any] = json.loads(json.dumps({**asdict(self), "text": self.text.to_dict()}))
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`."""
        parts = {"text": TextConfig.from_dict(data["text"]), "unet": UNetConfig(**data["unet"])}
        return cls(**{**data, **parts, "vae": VaeConfig(**data["vae"])})


def components(config: Config) -> tuple[Component, ...]:
    """The graphs of this family, in the order an image is made with them."""
    return _text_encoder(config), _unet(config), _vae_decoder(config)


def _text_encoder(config: Config) -> Component:
    text = config.text

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        return (hidden_states(weights, text, inputs["input_ids"]).float(),)

    return Component(
        name="text_encoder",
        inputs=(Port("input_ids", "int64", ("batch", text.positions)),),
        outputs=(Port("last_hidden_state", "float32", ("batch", text.positions, text.encoder.width)),),
        weights=text_weights(text),
        forward=forward,
        ranges={"batch": (1, config.max_batch)},
        vocab=text.vocab,
        depth=Depth(((stem_of(NAME),),), lambda most: _text_encoder(config.at(most))),
    )


def _unet(config: Config) -> Component:
    sizes = config.unet
    latents = _image("batch", sizes.latents, sizes.multiple)

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        return (unet(weights, sizes, inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]),)

    return Component(
        name="unet",
        inputs=(
            Port("sample", "float32", latents),
            Port("timestep", "int64", (1,)),
            Port("encoder_hidden_states", "float32", ("batch", config.text.positions, sizes.context)),
        ),
        outputs=(Port("out_sample", "float32", latents),),
        weights=unet_weights(sizes),
        forward=forward,
        ranges=_ranges(config),
        constants={FREQUENCIES: frequencies(sizes)},
    )


def _vae_decoder(config: Config) -> Component:
    sizes, times = config.vae, config.unet.multiple

    def forward(
        weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], wanted: Collection[str] | None = None
    ) -> tuple[Tensor, ...]:
        return (vae_decoder(weights, sizes, inputs["latent_sample"]),)

    return Component(
        name="vae_decoder",
        inputs=(Port("latent_sample", "float32", _image("batch", sizes.latents, times)),),
        outputs=(Port("sample", "float32", _image("batch", 3, config.unit)),),
        weights=vae_weights(sizes),
        forward=forward,
        ranges=_ranges(config),
    )


def _image(batch: Dim, channels: int, times: int) -> tuple[Dim, ...]:
    return (batch, channels, multiple(times, "height"), multiple(times, "width"))


def _ranges(config: Config) -> dict[str, tuple[int, int]]:
    side = (1, config.longest_side // config.unit)
    return {"batch": (1, config.max_batch), "height": side, "width": side}
