"""A session made of one session for every component."""

from collections.abc import Mapping

import numpy as np

from ..exporter.session import Arrays, Session


class EachComponent:
    """Implements Session."""

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self._sessions = sessions

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        """See Session.run."""
        return self._sessions[component].run(component, inputs, outputs)
