"""One pass of samples through a model, watched; a pass that was killed goes on where it was."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..exporter.errors import InputError
from ..exporter.partial import remove_leftovers
from ..exporter.progress import Progress
from ..exporter.whole_file import whole_file
from .observe import Observers, ObservingSession
from .observers import Observer
from .samples import Samples

_SECONDS_BETWEEN = 30.0

Widths = Mapping[str, Mapping[str, int]]
Divisors = Mapping[str, Mapping[str, np.ndarray]]


class Resume:
    """Where a pass keeps its state: a file beside `target`, named after all that the state depends on."""

    def __init__(self, target: Path, identity: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        # Not `.partial-`: what starts so is removed as a leftover by whoever writes the target.
        self.path = target.with_name(f".{target.name}.resume-{digest}")
        self._saved = time.monotonic()

    def load(self, observers: Observers) -> int:
        """Bring observers to where they were; returns how many samples that is, 0 where there is no state."""
        try:
            with np.load(self.path, allow_pickle=False) as held:
                state = {name: held[name] for name in held.files}
            for component, tensors in observers.items():
                for name, observer in tensors.items():
                    prefix = f"{component}/{name}/"
                    observer.restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
            return int(state["done"])
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, BadZipFile, EOFError):
            self.path.unlink(missing_ok=True)
            return 0

    def save(self, observers: Observers, done: int) -> None:
        """Keep the state after whole samples, where enough time has passed since the last time."""
        if time.monotonic() - self._saved < _SECONDS_BETWEEN:
            return
        arrays = {
            f"{component}/{name}/{key}": value
            for component, tensors in observers.items()
            for name, observer in tensors.items()
            for key, value in observer.state().items()
        }
        with whole_file(self.path) as file:
            np.savez(file, done=np.array(done), **arrays)  # type: ignore[arg-type]
        self._saved = time.monotonic()

    def clear(self) -> None:
        """The pass is done with."""
        self.path.unlink(missing_ok=True)
        remove_leftovers(self.path)


def collect(
    graphs: Mapping[str, Path],
    widths: Widths,
    samples: Samples,
    seed: int,
    folder: Path,
    resume: Resume,
    progress: Progress,
    name: str,
    divisors: Divisors | None = None,
) -> Observers:
    """Observe tensors while `samples` run through float32 graphs. widths gives their last dimension by component and
    tensor; divisors divides some of them first; folder takes the graphs with more outputs.

    Raises InputError for samples that the model cannot take, or of which a component saw nothing.
    """
    divisors = divisors or {}
    observers = {
        component: {
            tensor: Observer(width, divisors.get(component, {}).get(tensor)) for tensor, width in tensors.items()
        }
        for component, tensors in widths.items()
    }
    done = resume.load(observers)
    if done:
        progress.note(f"{name}: {done} of {samples.count} samples were observed before; going on from there.")
    folder.mkdir(parents=True)
    session = ObservingSession(graphs, observers, folder, seed)
    with progress.stage(name, samples.count, "samples") as advance:
        advance(done)
        session.begin(done)
        # Nothing is saved where a pass is interrupted: part of a sample is in the observers, and would be there twice.
        for finished in samples.play(session, done):
            advance(finished - done)
            done = finished
            session.begin(done)
            resume.save(observers, done)
    _require_seen(observers)
    return observers


def _require_seen(observers: Observers) -> None:
    for component, tensors in observers.items():
        if unseen := [name for name, observer in tensors.items() if not observer.count]:
            raise InputError(
                f"the samples never reached {unseen[0]} in {component}: none has what it takes, such as an image. Give "
                "samples that have, or leave these layers out with --exclude."
            )
