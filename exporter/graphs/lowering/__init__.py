"""Rewrites of a published graph for the engine that is built from it, without torch and without holding its weights."""

from .lower import Lowered, lower

__all__ = ["Lowered", "lower"]
