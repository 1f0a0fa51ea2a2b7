"""benchmarks/deep_prompt.py makes what it says: deep prompts that cost what `inspect` counts for them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from memvp_export import Bundle, export_onnx, inspect_path, read_source
from memvp_export.examples.random_vilt import PRESETS, write_source
from memvp_export.exporter.bench.inputs import inputs_of
from memvp_export.exporter.bench.loads import Load
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.onnx_session import OnnxSession


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        import deep_prompt

        yield deep_prompt


@pytest.fixture(scope="module")
def bundles(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """An APT-ViLT, and the same with deep prompts and with none."""
    folder = tmp_path_factory.mktemp("rivals")
    write_source(folder, replace(PRESETS["odd"], blocks=2), "vqa")
    apt = export_onnx(read_source(folder), folder / "apt", "fp32", golden=False)
    kinds = {"deep": True, "none": False}
    return {"apt": apt} | {kind: script.write_rival(apt, folder / kind, prompts) for kind, prompts in kinds.items()}


def test_deep_prompts_cost_what_is_counted_for_them(bundles: dict[str, Bundle]) -> None:
    def cost(kind: str) -> dict[str, Any]:
        report = inspect_path(bundles[kind].root, shapes={"batch": 2, "sequence": 7})
        found: dict[str, Any] = report["components"]["model"]["graphs"]["fp32"]["cost"]
        return found

    apt, deep, none = (cost(kind) for kind in ("apt", "deep", "none"))
    assert deep["macs"] - none["macs"] == apt["deep_prompt"]["macs"] > 0
    assert apt["macs"] - none["macs"] == apt["memory"]["macs"] > 0


def test_every_kind_of_prompt_moves_the_logits(bundles: dict[str, Bundle]) -> None:
    logits = {}
    for kind, bundle in bundles.items():
        component = bundle.manifest["components"]["model"]
        feed = inputs_of(component, Load("model", "model", "latency", 2, 7), 0, 7, "fp32", {})
        logits[kind] = OnnxSession(bundle).run("model", feed)["logits"]
        assert np.isfinite(logits[kind]).all() and len(logits[kind]) == 2
    for kind, other in (("apt", "none"), ("deep", "none"), ("apt", "deep")):
        assert np.abs(logits[kind] - logits[other]).max() > 1e-3


def test_another_family_has_no_rival(script: ModuleType, bundles: dict[str, Bundle], tmp_path: Path) -> None:
    other = replace(bundles["apt"], manifest={**bundles["apt"].manifest, "family": "apt-meter"})
    with pytest.raises(InputError, match="is made for apt-vilt"):
        script.write_rival(other, tmp_path / "out", True)
    assert not (tmp_path / "out").exists()
