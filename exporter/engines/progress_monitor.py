"""How far a build is, as TensorRT tells it."""

from __future__ import annotations

from typing import Any


def progress_monitor(trt: Any, tell: Any) -> Any:
    """An IProgressMonitor that calls tell with whole percents of the outermost phase, which never fall."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            # Phase -> [steps, steps done], the outermost first.
            self.phases: dict[str, list[int]] = {}
            self.told = 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.phases[phase] = [max(steps, 1), 0]

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.phases:
                self.phases[phase][1] = step + 1
            share, part = 0.0, 1.0
            for steps, done in self.phases.values():
                share += part * min(done, steps) / steps
                part /= steps
            # Phases of the same parent may overlap: the bar never goes back.
            if min(int(100 * share), 100) > self.told:
                self.told = min(int(100 * share), 100)
                tell(stage="build", percent=self.told)
            return True

        def phase_finish(self, phase: str) -> None:
            self.phases.pop(phase, None)

    return Monitor()
