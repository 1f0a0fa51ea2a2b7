"""Scale files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from memvp_export.calibration.scales import LayerScale, Scales, model_identity, read_scales, require_fit
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import InputError

SCALES = Scales(
    "int8",
    "mse",
    {"family": "memvp-llama", "weights": "w", "graphs": {}},
    {"samples": 8},
    {"decoder": {"a/MatMul": LayerScale(1.5, "a/Mul", 40.0, (1.0, 2.0)), "b/MatMul": LayerScale(None)}},
    factors={"decoder": {"a/Mul": [0.5, 2.0]}},
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(SCALES.to_json())
    assert read_scales(tmp_path / "s.json") == SCALES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "no scale file"),
        ({"schema": 9}, "Upgrade"),
        ({"layers": {"decoder": {"a/MatMul": {"clip": -1.0}}}}, "damaged"),
        ({"layers": {"decoder": {"a/MatMul": {"range": 1.0}}}}, "damaged"),
        ({"layers": []}, "damaged"),
        ({"factors": {"decoder": {"a/Mul": [1.0, 0.0]}}}, "damaged"),
    ],
)
def test_a_damaged_file_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps({**json.loads(SCALES.to_json()), **change}))
    with pytest.raises(InputError, match=message):
        read_scales(tmp_path / "s.json")


def test_a_model_has_one_identity_in_all_precisions(bundle_of: Callable[[str], Path]) -> None:
    names = ["vision", "decoder"]
    first, second = (model_identity(Bundle.open(bundle_of(precision)), names) for precision in ("fp32", "fp16"))
    assert first == second


def test_another_models_file_is_refused(bundle_of: Callable[[str], Path]) -> None:
    own = Bundle.open(bundle_of("fp32"))
    sources = [{**entry, "sha256": entry["sha256"][::-1]} for entry in own.manifest["sources"]]
    other = replace(own, manifest={**own.manifest, "sources": sources})
    scales = Scales("int8", "max", model_identity(other, ["decoder"]), {}, {"decoder": {}})
    require_fit(scales, other, "file")
    with pytest.raises(InputError, match="other weights"):
        require_fit(scales, own, "file")
    foreign = Scales("int8", "max", {}, {}, {"unet": {}})
    with pytest.raises(InputError, match="unet"):
        require_fit(foreign, own, "file")
