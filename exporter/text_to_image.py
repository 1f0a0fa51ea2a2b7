"""Text -> image with the components of Stable Diffusion, over any Session: diffusers' scheduler around our graphs.

An image starts from noise of torch's CPU generator, seeded with `seed` for every image by itself: the same as in
diffusers' own pipeline, and batches do not matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import inside
from .data import Request
from .dims import terms
from .encoder_tokenizer import EncoderTokenizer
from .errors import InputError
from .forms import fault
from .scheduler import denoised, make_scheduler, read_scheduler, require_schedulers
from .session import Session, require_finite

TEXT_ENCODER, UNET, VAE_DECODER = "text_encoder", "unet", "vae_decoder"
_MOST_GUIDANCE = 1_000_000
_SIZE = (int, float)
_FORM = {
    "scheduler": str,
    "config": {"height": int, "width": int, "vae": {"scaling": _SIZE}},
    "components": {name: {"ranges": {"batch": [int, int]}} for name in (TEXT_ENCODER, UNET, VAE_DECODER)},
}


@dataclass(frozen=True)
class ImageSettings:
    """How an image is made. steps are those of the scheduler; guidance is classifier-free: above 1, what the text adds
    to the prediction for `negative_text` counts that many times. height and width in pixels, None: the bundle's own."""

    steps: int = 50
    guidance: float = 7.5
    seed: int = 0
    negative_text: str = ""
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        for name, good, wanted in (
            ("steps", 1 <= self.steps <= 1000, "1 to 1000"),
            ("guidance", 0 <= self.guidance <= _MOST_GUIDANCE, f"0 to {_MOST_GUIDANCE}"),
            ("seed", 0 <= self.seed < 1 << 63, "0 or more, and below 2^63"),
            ("height", self.height is None or self.height > 0, "above 0"),
            ("width", self.width is None or self.width > 0, "above 0"),
        ):
            if not good:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {wanted}.")


class TextToImage:
    """Makes images with the components `text_encoder`, `unet` and `vae_decoder` of a session.

    Attributes: tokenizer; max_sequence, the length of a text in tokens; max_batch, the images made at once, at least 1;
    unit, what height and width are multiples of, in pixels.
    """

    def __init__(
        self, session: Session, tokenizer: EncoderTokenizer, manifest: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> None:
        """manifest has the components as `session` runs them; scheduler is the parsed scheduler_config.json. Raises
        InputError where they do not fit together."""
        if wrong := fault(manifest, _FORM):
            raise InputError(f"the bundle makes no images: {wrong} in its manifest.")
        if not 0 < manifest["config"]["vae"]["scaling"] < float("inf"):
            raise InputError("the bundle makes no images: the scaling of its latents is no number above 0.")
        require_schedulers()
        parts = manifest["components"]
        self._session, self.tokenizer, self._scheduler = session, tokenizer, scheduler
        sample, image = _dims(parts[UNET]["inputs"]), _dims(parts[VAE_DECODER]["outputs"])
        self._latents, self._multiple, self.unit = int(sample[1]), len(terms(sample[2])), len(terms(image[2]))
        drawn = [parts[name]["ranges"] for name in (UNET, VAE_DECODER)]
        self._sides = {
            name: (max(ranges[name][0] for ranges in drawn), min(ranges[name][1] for ranges in drawn))
            for name in ("height", "width")
        }
        self._rows = {name: int(part["ranges"]["batch"][1]) for name, part in parts.items()}
        self.max_batch = max(1, self._rows[UNET] // 2)
        self.max_sequence = tokenizer.maximum
        self._size = {name: manifest["config"][name] for name in ("height", "width")}
        self._scaling = float(manifest["config"]["vae"]["scaling"])

    @classmethod
    def from_manifest(cls, session: Session, manifest: Mapping[str, Any], root: Path) -> "TextToImage":
        """The pipeline of an opened bundle."""
        if wrong := fault(manifest, _FORM):
            raise InputError(f"{root} is edited: {wrong} in its manifest.")
        tokenizer = EncoderTokenizer(root, manifest["tokenizer"])
        return cls(session, tokenizer, manifest, read_scheduler(inside(root, manifest["scheduler"])))

    def texts(self, request: Request) -> list[list[int]]:
        """The ids of a request's text, as long as it is."""
        return [self.tokenizer.encode(request.text)]

    def truncated(self, text: str) -> bool:
        """Whether a text is too long and loses its end."""
        return len(self.tokenizer.encode(text)) > self.max_sequence

    def size(self, settings: ImageSettings) -> tuple[int, int]:
        """Height and width of the images in pixels. InputError for a size that the components do not take."""
        asked = {"height": settings.height, "width": settings.width}
        sides = {name: self._size[name] if side is None else side for name, side in asked.items()}
        for name, side in sides.items():
            low, high = (limit * self.unit for limit in self._sides[name])
            if side % self.unit or not low <= side <= high:
                raise InputError(
                    f"{name} is {side}; it must be a multiple of {self.unit}, from {low} to {high} pixels."
                )
        return sides["height"], sides["width"]

    def images(self, texts: Sequence[str], settings: ImageSettings) -> np.ndarray:
        """Images uint8 [B,H,W,3] of texts, at most max_batch. Raises InputError for settings that the model does not
        take, VerdictError where a component gives values that are not finite."""
        decoded = self.decoded(self.latents(texts, settings))
        pixels = (decoded.transpose(0, 2, 3, 1) / 2 + 0.5).clip(0, 1)
        return np.asarray((pixels * 255).round().astype(np.uint8))

    def decoded(self, latents: np.ndarray) -> np.ndarray:
        """Images float32 [B,3,H,W], about -1 to 1, of the last latents [B,4,h,w]."""
        rows, found = self._rows[VAE_DECODER], []
        for at in range(0, len(latents), rows):
            part = {"latent_sample": latents[at : at + rows] / np.float32(self._scaling)}
            found.append(_finite(self._session.run(VAE_DECODER, part, ["sample"])["sample"], VAE_DECODER))
        return np.concatenate(found)

    def latents(self, texts: Sequence[str], settings: ImageSettings) -> np.ndarray:
        """What the last step leaves of the noise, float32 [B,4,h,w], before it is scaled and decoded; see `images`."""
        import torch

        if len(texts) > self.max_batch:
            raise InputError(f"{len(texts)} images at once are more than the {self.max_batch} that the model makes.")
        guided = settings.guidance > 1
        context = self._encode([*([settings.negative_text] * len(texts) if guided else []), *texts])
        sides = [side // self.unit * self._multiple for side in self.size(settings)]
        scheduler = make_scheduler(self._scheduler, settings.steps)
        generators = [torch.Generator("cpu").manual_seed(settings.seed) for _ in texts]
        noise = [torch.randn((1, self._latents, *sides), generator=generator) for generator in generators]

        def predict(sample: torch.Tensor, step: int) -> torch.Tensor:
            found = self._predict(torch.cat([sample, sample] if guided else [sample]).numpy(), step, context)
            if guided:
                plain, texted = np.split(found, 2)
                found = plain + np.float32(settings.guidance) * (texted - plain)
            return torch.from_numpy(found)

        latents = denoised(scheduler, torch.cat(noise), generators, predict)
        return _finite(np.asarray(latents.float().numpy()), "the scheduler")

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        """Rows [B,S,c] of texts, padded to the length that the model was trained with."""
        ids = np.full((len(texts), self.max_sequence), self.tokenizer.pad, np.int64)
        for row, text in zip(ids, texts, strict=True):
            found = self.tokenizer.encode(text)
            fitted = found if len(found) <= len(row) else [*found[: len(row) - 1], self.tokenizer.sep]
            row[: len(fitted)] = fitted
        rows, parts = self._rows[TEXT_ENCODER], []
        for at in range(0, len(ids), rows):
            part = self._session.run(TEXT_ENCODER, {"input_ids": ids[at : at + rows]}, ["last_hidden_state"])
            parts.append(_finite(part["last_hidden_state"], TEXT_ENCODER))
        return np.concatenate(parts)

    def _predict(self, sample: np.ndarray, step: int, context: np.ndarray) -> np.ndarray:
        rows, parts = self._rows[UNET], []
        for at in range(0, len(sample), rows):
            part = {
                "sample": sample[at : at + rows],
                "timestep": np.array([step], np.int64),
                "encoder_hidden_states": context[at : at + rows],
            }
            parts.append(_finite(self._session.run(UNET, part, ["out_sample"])["out_sample"], UNET))
        return np.concatenate(parts)


def _dims(ports: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Those of the port `sample` [B,C,H,W]."""
    found: list[Any] = next((port["dims"] for port in ports if port["name"] == "sample"), [])
    if len(found) != 4:
        raise InputError("the bundle makes no images: its components have no port `sample` [B,C,H,W].")
    return [*found]


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    return require_finite(values, f"{what} gave values")
