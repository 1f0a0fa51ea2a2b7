"""MemVP on BART (spec 2)."""

from .bart import BartConfig
from .memvp_encoder_decoder import EncoderDecoderConfig, components

__all__ = ["Config", "components"]


class Config(EncoderDecoderConfig):
    """See `EncoderDecoderConfig`."""

    HOST = BartConfig
