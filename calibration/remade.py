"""What samples come to, made from the start by other graphs: errors travel through all that is between the calls."""

import numpy as np

from ..exporter.session import Session
from .samples import Trial


class Remade:
    """The outputs of a trial in float32, to compare others with."""

    def __init__(self, trial: Trial, session: Session) -> None:
        self._trial = trial
        self._expected = trial.make(session, trial.samples)

    def replay(self, session: Session, samples: int | None = None) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """See Tape.replay."""
        count = min(samples or self._trial.samples, self._trial.samples)
        made = self._trial.make(session, count)
        return [(name, now, before) for (name, now), (_, before) in zip(made, self._expected[: len(made)], strict=True)]
