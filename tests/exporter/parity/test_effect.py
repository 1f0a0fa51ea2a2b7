"""How far the image moves the logits says what a comparison could have seen."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.onnx_session import OnnxSession
from memvp_export.exporter.parity.check import check
from memvp_export.exporter.parity.effect import image_effect
from memvp_export.exporter.parity.golden import Case, from_arrays, to_arrays
from memvp_export.exporter.session import Arrays

from .edits import edit_golden, rewrite


@pytest.mark.parametrize(("share", "effect"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_the_image_effect_is_how_far_the_logits_move_without_it(share: float, effect: float) -> None:
    class Fake:
        def run(self, component: str, inputs: Mapping[str, np.ndarray], outputs: list[str] | None = None) -> Arrays:
            return {"logits": np.full((1, 1, 4), 1 - share + share * inputs["visual_memory"].max())}

    rows = Case("decoder", "rows", {"visual_memory": np.ones((1, 2, 3))}, {})
    assert image_effect(Fake(), [rows]) == pytest.approx(effect)
    assert image_effect(Fake(), [dataclasses.replace(rows, name="long")]) is None


def test_a_comparison_that_could_not_see_a_fault_says_so(copy: Path) -> None:
    def blind(arrays: dict[str, np.ndarray]) -> None:
        for name in arrays:
            if name.startswith("decoder/") and name.endswith("visual_memory"):
                arrays[name][:] = 0
        session = OnnxSession(Bundle.open(copy), threads=1)
        for case in from_arrays(arrays):
            if case.component == "decoder":
                found = session.run("decoder", case.inputs, list(case.outputs))
                arrays |= to_arrays([dataclasses.replace(case, outputs=found)])

    rewrite(copy, "samples/golden.npz", edit_golden(blind))
    report = check(copy)
    assert report.passed and report.image_effect == 0
    assert any("could hardly see a fault in the visual memory" in note for note in report.notes)
