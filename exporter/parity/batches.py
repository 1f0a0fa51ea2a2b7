"""Calls of more rows than a graph takes, made as several calls."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..session import Arrays, Session

if TYPE_CHECKING:
    from ..models.component import Component


@dataclass(frozen=True)
class RowLimit:
    """How many rows a component takes at once, and the inputs and outputs that have them on their first axis."""

    rows: int
    ports: frozenset[str]


class InBatches:
    """A Session over another one: a call with too many rows is split, and the results are joined again."""

    def __init__(self, session: Session, limits: Mapping[str, RowLimit]) -> None:
        self._session, self._limits = session, limits

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        """See Session.run."""
        limit = self._limits.get(component)
        rows = max((len(array) for name, array in inputs.items() if limit and name in limit.ports), default=0)
        if limit is None or rows <= limit.rows:
            return self._session.run(component, inputs, outputs)
        parts = [
            self._session.run(
                component,
                {n: a[at : at + limit.rows] if n in limit.ports else a for n, a in inputs.items()},
                outputs,
            )
            for at in range(0, rows, limit.rows)
        ]
        return {
            name: np.concatenate([part[name] for part in parts]) if name in limit.ports else array
            for name, array in parts[0].items()
        }


def limits_of(components: Iterable["Component"]) -> dict[str, RowLimit]:
    """The limits of components that are about to be exported."""
    return {
        part.name: _limit(part.ranges, {port.name: port.dims for port in (*part.inputs, *part.outputs)})
        for part in components
    }


def limits_in(manifest: Mapping[str, Any]) -> dict[str, RowLimit]:
    """The limits of a bundle's components."""
    return {
        name: _limit(part["ranges"], {port["name"]: port["dims"] for port in (*part["inputs"], *part["outputs"])})
        for name, part in manifest["components"].items()
    }


def _limit(ranges: Mapping[str, Any], ports: Mapping[str, Any]) -> RowLimit:
    names = frozenset(name for name, dims in ports.items() if dims and dims[0] == "batch")
    return RowLimit(int(ranges["batch"][1]) if names else 1, names)
