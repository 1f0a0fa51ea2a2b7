"""Recorded calls, played again."""

from collections.abc import Callable
from pathlib import Path

from memvp_export.calibration.damage import damage
from memvp_export.calibration.samples import open_samples
from memvp_export.calibration.tape import Tape
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Request
from memvp_export.exporter.onnx_session import OnnxSession


class _Disturbed:
    """A session whose outputs of one name are larger than they should be."""

    def __init__(self, session: OnnxSession, name: str) -> None:
        self._session, self._name = session, name

    def run(self, component, inputs, outputs=None):  # type: ignore[no-untyped-def]
        found = self._session.run(component, inputs, outputs)
        return {name: 1.5 * array if name == self._name else array for name, array in found.items()}


def test_errors_travel_through_memory_and_caches(bundle_of: Callable[[str], Path], questions: list[Request]) -> None:
    opened = Bundle.open(bundle_of("fp32"))
    session = OnnxSession(opened)
    tape = Tape(session)
    assert list(open_samples(opened, questions[:8], None, 0).play(tape, 0)) == [8]
    tape.close()
    same = damage(tape.replay(session))
    assert (same.relative_l2, same.top1) == (0.0, 1.0)
    for name in ("visual_memory", "present.0.value"):
        assert damage(tape.replay(_Disturbed(session, name))).relative_l2 > 1e-4


def test_only_final_outputs_are_kept(bundle_of: Callable[[str], Path], questions: list[Request]) -> None:
    opened = Bundle.open(bundle_of("fp32"))
    tape = Tape(OnnxSession(opened))
    list(open_samples(opened, questions[:8], None, 0).play(tape, 0))
    tape.close()
    assert {name for name, _, _ in tape.replay(OnnxSession(opened))} == {"logits"}
