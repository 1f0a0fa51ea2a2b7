"""Cases with an empty past, for what was built without caches or with caches in place."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..kv_cache import KVCache
from ..session import Arrays, Session


class WithoutEmptyPast:
    """A Session over another one that is not given the empty inputs which its components do not have, and gets the
    untouched buffers of those whose caches are written in place."""

    def __init__(self, session: Session, components: Mapping[str, Any]) -> None:
        """components are those of a manifest, as `session` runs them."""
        self._session = session
        self._takes = {name: {port["name"] for port in part["inputs"]} for name, part in components.items()}
        self._in_place = {
            name: part for name, part in components.items() if part["cache"] and part["cache"]["kind"] == "in_place"
        }

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        """See Session.run."""
        taken = {name: array for name, array in inputs.items() if array.size or name in self._takes[component]}
        if part := self._in_place.get(component):
            untouched = KVCache(part, "fp32", len(next(iter(inputs.values())))).inputs()
            taken |= {name: array for name, array in untouched.items() if name in taken and not taken[name].size}
        return self._session.run(component, taken, outputs)
