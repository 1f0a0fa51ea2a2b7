"""Requests in batches, for models that answer each in one pass and write no text."""

from collections.abc import Iterable, Iterator
from itertools import islice

from .data import Request
from .errors import InputError
from .settings import DEFAULT_BATCH, Settings


def single_passes(requests: Iterable[Request], settings: Settings, max_batch: int) -> Iterator[list[Request]]:
    """The requests in batches of at most max_batch rows, taken as they are needed. Raises InputError for settings that
    are not for such models."""
    if settings.max_new_tokens != 1 or settings.temperature or settings.beams != 1:
        raise InputError("this model generates no text: leave max_new_tokens, beams and temperature out.")
    size = settings.batch or min(DEFAULT_BATCH, max_batch)
    if size > max_batch:
        raise InputError(f"batch is {size}; the model takes at most {max_batch}.")
    source = iter(requests)
    while batch := list(islice(source, size)):
        yield batch
