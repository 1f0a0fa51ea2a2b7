"""A session with a fault."""

from collections.abc import Callable, Mapping

import numpy as np
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.session import Arrays


class Altered:
    """A session whose inputs or outputs are altered on the way: a fault that a graph could have."""

    def __init__(self, session: OnnxSession, alter: Callable[[Arrays], Arrays | None], outputs: bool = False) -> None:
        self.session, self.alter, self.outputs = session, alter, outputs
        self.columns: list[int] = []

    def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
        inputs = dict(inputs)
        if "input_ids" in inputs:
            self.columns.append(inputs["input_ids"].shape[1])
        if not self.outputs:
            inputs |= self.alter(inputs) or {}
        results = self.session.run(component, inputs, outputs)
        return results | (self.alter(results) or {}) if self.outputs else results
