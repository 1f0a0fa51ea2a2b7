"""What a watching session sees does not depend on how much of a call it runs at a time."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from memvp_export.calibration import observe
from memvp_export.calibration.layers import find_layers
from memvp_export.calibration.observe import ObservingSession
from memvp_export.calibration.observers import Observer
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.data import Request
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.inspection.values import load_graph
from memvp_export.exporter.pipelines import pipeline_from
from memvp_export.exporter.settings import Settings


class _Watched:
    """All tensors that products of a bundle read, watched while it answers; runs counts those of ONNX Runtime."""

    def __init__(self, bundle: Bundle, questions: list[Request], folder: Path, patch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.runs, run = 0, observe.OnnxSession.run

        def counted(session: observe.OnnxSession, component: str, inputs: Mapping[str, np.ndarray], names: list[str]):  # type: ignore[no-untyped-def]
            self.runs += 1
            return run(session, component, inputs, names)

        graphs = {name: bundle.graph(name) for name in bundle.manifest["components"]}
        self.observers = {
            name: {layer.input: Observer(layer.inputs) for layer in find_layers(load_graph(path).graph)}
            for name, path in graphs.items()
        }
        with patch.context() as patched:
            patched.setattr(observe.OnnxSession, "run", counted)
            session = ObservingSession(graphs, self.observers, folder)
            self.answers = pipeline_from(session, bundle.manifest, bundle.root).answer(questions, Settings(2))


def test_a_large_call_runs_in_fewer_rows_not_more_often(
    bundle_of: Callable[[str], Path], questions: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, asked = Bundle.open(bundle_of("fp32")), questions[:4]
    whole = _Watched(opened, asked, tmp_path / "whole", monkeypatch)
    monkeypatch.setattr(observe, "_bytes", lambda dims, lengths: lengths["batch"])
    # As if the tensors that are watched in the decoder, the larger component, had room for two rows of four.
    most = 2 * max(len(tensors) for tensors in whole.observers.values())
    monkeypatch.setattr(observe, "CHUNK_BYTES", most)
    monkeypatch.setattr(observe, "_MOST_BYTES", most)
    parted = _Watched(opened, asked, tmp_path / "parted", monkeypatch)
    assert whole.runs < parted.runs <= 2 * whole.runs
    assert parted.answers == whole.answers
    for component, tensors in whole.observers.items():
        for name, one in tensors.items():
            other = parted.observers[component][name]
            assert one.count == other.count
            assert np.allclose(one.maxima, other.maxima, rtol=1e-4, atol=1e-5)
            assert np.allclose(one.mean_squares, other.mean_squares, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("component", "name", "shape", "message"),
    [
        ("tower", "pixel_values", (1, 3, 8, 8), "no component 'tower'"),
        ("vision", "pixels", (1, 3, 8, 8), "needs the input"),
        ("vision", "pixel_values", (3, 8, 8), "cannot run vision"),
    ],
)
def test_calls_that_are_none_of_the_model_are_refused(
    component: str, name: str, shape: tuple[int, ...], message: str, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = Bundle.open(bundle_of("fp32"))
    graphs = {name: opened.graph(name) for name in opened.manifest["components"]}
    session = ObservingSession(graphs, {name: {} for name in graphs}, tmp_path)
    with pytest.raises(InputError, match=message):
        session.run(component, {name: np.zeros(shape, np.float32), "image_indicator": np.ones(1, np.float32)})
