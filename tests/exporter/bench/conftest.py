"""A clock that only moves when a session works, and sessions whose calls take a time that the test sets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from memvp_export.exporter.bench import lanes, rounds
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.session import Arrays


class Clock:
    """Seconds since the start; `wait` lets them pass."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FakeSession:
    """ONNX Runtime's answers; a call takes cost(number of the call) seconds of the clock."""

    bundle: Bundle
    clock: Clock
    cost: Callable[[int], float]
    calls: list[tuple[str, Arrays]] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self._session = OnnxSession(self.bundle)

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        self.clock.wait(self.cost(len(self.calls)))
        self.calls.append((component, dict(inputs)))
        return self._session.run(component, inputs, outputs)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rounds, "clock", clock)
    return clock


@pytest.fixture
def fake(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[Path, FakeSession]]:
    """fake({bundle's folder: cost}) puts a FakeSession in the place of every session that is opened for it."""

    def install(costs: Mapping[Path, Callable[[int], float]]) -> dict[Path, FakeSession]:
        opened: dict[Path, FakeSession] = {}

        def open_session(bundle: Bundle, *others: object, **options: object) -> FakeSession:
            opened[bundle.root] = FakeSession(bundle, clock, costs[bundle.root])
            return opened[bundle.root]

        monkeypatch.setattr(lanes, "open_session", open_session)
        return opened

    return install


@pytest.fixture(scope="session")
def bundle(bundle_of: Callable[[str], Path]) -> Bundle:
    return Bundle.open(bundle_of("fp32"))
