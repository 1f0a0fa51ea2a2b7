"""A model with what large language models have: a few channels that are far larger than the others, and dead ones."""

import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
import pytest
from memvp_export.calibration.calibrate import calibrate
from memvp_export.calibration.report import Report
from memvp_export.exporter.data import Request

# One layer of the decoder is enough.
LEFT = ["visual.*", "adapter_proj.*", "backbone.*", "*.layers.1.*", "*.layers.2.*"]
LOUD, DEAD = slice(0, 4), slice(10, 13)


def _with_norms(source: Path, root: Path, pattern: str, change: Callable[[np.ndarray], None]) -> Path:
    """A copy of a bundle whose decoder has other weights in its norms of a name."""
    shutil.copytree(source, root)
    model = onnx.load(root / "graphs/decoder.onnx", load_external_data=False)
    norms = [one for one in model.graph.initializer if fnmatchcase(one.name, pattern)]
    assert norms
    with (root / "graphs/decoder.onnx.data").open("r+b") as file:
        for tensor in norms:
            place = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
            file.seek(place["offset"])
            values = np.frombuffer(file.read(place["length"]), np.float32).copy()
            change(values)
            file.seek(place["offset"])
            file.write(values.tobytes())
    return root


@pytest.fixture(scope="module")
def outliers(bundle_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The odd bundle, whose decoder's norms give four channels forty times as large as before, and three of zeros."""

    def change(values: np.ndarray) -> None:
        values[LOUD] *= 40
        values[DEAD] = 0

    return _with_norms(bundle_of("fp32"), tmp_path_factory.mktemp("outliers") / "bundle", "*layernorm.weight", change)


def _calibrated(root: Path, data: list[Request], method: str, smooth_quant: bool) -> Report:
    return calibrate(root, data, "int8", method, smooth_quant, 10, rest="fp32", exclude=LEFT)


def test_smooth_quant_halves_the_error_of_plain_ranges(outliers: Path, questions: list[Request]) -> None:
    plain, smooth = (_calibrated(outliers, questions, "max", smooth) for smooth in (False, True))
    assert plain.damage is not None and smooth.damage is not None
    assert 0 < smooth.damage.relative_l2 < plain.damage.relative_l2 / 2
    alphas = {row.layer: row.alpha for row in smooth.layers if row.reason is None}
    # Each search found its own; what reads a norm was smoothed.
    assert all(alpha > 0 for layer, alpha in alphas.items() if "q_proj" in layer or "up_proj" in layer)
    assert all(row.alpha == 0 for row in plain.layers)
    reads_norm = [row for row in smooth.layers if row.sqnr is not None and "q_proj" in row.layer]
    before = {row.layer: row.sqnr for row in plain.layers}
    assert reads_norm and all(row.sqnr > before[row.layer] + 6 for row in reads_norm)


def test_layers_whose_inputs_are_all_zero_are_left_out(
    bundle_of: Callable[[str], Path], questions: list[Request], tmp_path: Path
) -> None:
    root = _with_norms(
        bundle_of("fp32"), tmp_path / "bundle", "*.layers.0.post_attention_layernorm.weight", lambda w: w.fill(0)
    )
    report = _calibrated(root, questions, "mse", True)
    zero = {row.layer.split(".")[-1]: row.reason for row in report.layers if row.reason and "all 0" in row.reason}
    assert zero.keys() == {"gate_proj/MatMul", "up_proj/MatMul", "down_proj/MatMul"}
    assert report.quantized == 4 and report.damage is not None and report.damage.relative_l2 > 0
