"""What stays where a session computes from call to call, if the session offers that: caches, and inputs that do not
change. Over any other session they are arrays in host memory, given to it anew with each call."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .cache import Cache
from .kv_cache import KVCache
from .session import Session


def cache_of(session: Session, component: str, entry: Mapping[str, Any], precision: str, batch: int) -> Cache:
    """An empty cache for a batch; entry is that of the component in the manifest as the session runs it. Raises
    InputError where its parts do not fit together."""
    make = getattr(session, "cache", None)
    return make(component, batch) if make else KVCache(entry, precision, batch)


def kept(session: Session, component: str, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Inputs of a component that several calls will take, in the form to give them."""
    keep = getattr(session, "keep", None)
    return keep(component, inputs) if keep else dict(inputs)
