"""MemVP on T5 (spec 2)."""

from .memvp_encoder_decoder import EncoderDecoderConfig, components
from .t5 import T5Config

__all__ = ["Config", "components"]


class Config(EncoderDecoderConfig):
    """See `EncoderDecoderConfig`."""

    HOST = T5Config
