"""Calls of a model's components, recorded in float32 and played again through other graphs.

An input that was an output of an earlier call, such as the visual memory or a cache, is at replay that output of the
replayed call: so errors travel as in use, while the tokens stay those of the float32 model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..exporter.cache import is_present
from ..exporter.session import Arrays, Session


@dataclass
class _Call:
    component: str
    inputs: Arrays
    linked: dict[str, tuple[int, str]]
    outputs: list[str] | None
    results: Arrays


class Tape:
    """Implements Session on top of another one, and records. Memory holds inputs that come from outside and final
    outputs, which no later call reads."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._calls: list[_Call] = []
        self._made: dict[int, tuple[int, str]] = {}
        self._alive: list[np.ndarray] = []
        # The calls that were made when so many samples were done.
        self._marks: dict[int, int] = {}

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        """See Session.run."""
        results = self._session.run(component, inputs, outputs)
        linked = {name: self._made[id(array)] for name, array in inputs.items() if id(array) in self._made}
        number = len(self._calls)
        own = {name: array for name, array in inputs.items() if name not in linked}
        self._calls.append(_Call(component, own, linked, outputs, dict(results)))
        for name, array in results.items():
            self._made[id(array)] = (number, name)
            self._alive.append(array)
        return results

    def mark(self, samples: int) -> None:
        """Say that so many samples are done."""
        self._marks[samples] = len(self._calls)

    def close(self) -> None:
        """The recording is complete: forget what only later calls could have asked for, and the session."""
        read = {link for call in self._calls for link in call.linked.values()}
        for number, call in enumerate(self._calls):
            call.results = {
                name: array
                for name, array in call.results.items()
                if (number, name) not in read and not is_present(name)
            }
        self._made.clear()
        self._alive.clear()
        del self._session

    def replay(self, session: Session, samples: int | None = None) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Every final output of the first `samples` (None: all), or a few more, by name: what it is now and what it was
        in float32."""
        calls = next((calls for done, calls in self._marks.items() if samples and done >= samples), None)
        last_use = {link: number for number, call in enumerate(self._calls) for link in call.linked.values()}
        held: dict[tuple[int, str], np.ndarray] = {}
        found = []
        for number, call in enumerate(self._calls[:calls]):
            inputs = {**call.inputs, **{name: held[link] for name, link in call.linked.items()}}
            results = session.run(call.component, inputs, call.outputs)
            held |= {(number, name): array for name, array in results.items() if (number, name) in last_use}
            found += [(name, results[name], expected) for name, expected in call.results.items()]
            held = {link: array for link, array in held.items() if last_use[link] > number}
        return found
