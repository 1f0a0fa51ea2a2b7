"""Whatever is wrong with a graph or its reference makes the check fail."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.parity.check import GOLDEN, check
from memvp_export.exporter.parity.compare import compare_output
from memvp_export.exporter.parity.replay import Pair
from memvp_export.exporter.parity.thresholds import THRESHOLDS
from onnx.external_data_helper import ExternalDataInfo

from .edits import edit_golden, rewrite


def set_value(component: str, tensor: str, value: float) -> Callable[[Path], None]:
    """The first value of a tensor of a float32 graph's data file."""

    def edit(data: Path) -> None:
        graph = onnx.load(data.with_suffix(""), load_external_data=False).graph
        (found,) = (each for each in graph.initializer if each.name.endswith(tensor))
        with data.open("r+b") as file:
            file.seek(int(ExternalDataInfo(found).offset or 0))
            file.write(np.float32(value).tobytes())

    return edit


@pytest.mark.parametrize(
    ("component", "tensor"),
    [
        ("vision", "conv1.weight"),
        ("vision", "resblocks.0.adapter_mlp.fc1.weight"),
        ("vision", "adapter_proj.fc2.bias"),
        ("decoder", "adapter_emb1"),
        ("decoder", "adapter_emb2"),
        ("decoder", "layers.2.self_attn.k_proj.weight"),
        ("decoder", "layers.1.mlp.down_proj.weight"),
    ],
)
def test_one_wrong_weight_fails_although_its_digest_fits(copy: Path, component: str, tensor: str) -> None:
    rewrite(copy, f"graphs/{component}.onnx.data", set_value(component, tensor, 3.0))
    report = check(copy)
    assert not report.passed and report.verdict.startswith(f"PARITY FAILED against {GOLDEN}: {component} ")


def test_a_changed_byte_without_its_digest_is_refused_before_anything_runs(copy: Path) -> None:
    set_value("decoder", "adapter_emb1", 3.0)(copy / "graphs/decoder.onnx.data")
    with pytest.raises(InputError, match=r"edited: the bytes of graphs/decoder\.onnx\.data"):
        check(copy)


@pytest.mark.parametrize(("component", "value"), [("vision", np.nan), ("decoder", np.nan), ("decoder", np.inf)])
def test_outputs_that_are_not_finite_fail(copy: Path, component: str, value: float) -> None:
    tensor = {"vision": "visual.conv1.weight", "decoder": "model.norm.weight"}[component]
    rewrite(copy, f"graphs/{component}.onnx.data", set_value(component, tensor, value))
    report = check(copy)
    assert not report.passed and "not finite" in report.verdict
    worst = next(i for i, result in enumerate(report.outputs) if result.component == component)
    assert report.outputs[worst].problem == "not finite"
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["passed"] is False and data["outputs"][worst]["distance"]["relative_l2"] is None


LOGITS, PRESENT = "decoder/rows/outputs/logits", "decoder/rows/outputs/present.2.value"
GOLDEN_EDITS: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str]] = {
    "one logit": (lambda a: a[LOGITS].__setitem__((3, 20, 5), 9.0), "decoder logits (rows: prefill)"),
    "one value in the cache": (lambda a: a[PRESENT].__setitem__((3, 0, 9, 0), 9.0), "decoder present.*.value"),
    "the visual memory": (lambda a: a["vision/rows/outputs/visual_memory"].__imul__(1.01), "vision visual_memory"),
    "a reference that is not finite": (lambda a: a[LOGITS].__setitem__((3, 20, 5), np.nan), "not finite"),
    "another vocabulary": (lambda a: a.update({LOGITS: a[LOGITS][..., :-1]}), "shape [4, 24, 150], not [4, 24, 149]"),
    "another number of columns": (
        lambda a: a.update({LOGITS: a[LOGITS][:, :-1]}),
        "shape [4, 24, 150], not [4, 23, 150]",
    ),
}


@pytest.mark.parametrize(("edit", "message"), GOLDEN_EDITS.values(), ids=list(GOLDEN_EDITS))
def test_golden_tensors_that_differ_fail(copy: Path, edit: Callable[..., object], message: str) -> None:
    rewrite(copy, "samples/golden.npz", edit_golden(edit))
    report = check(copy)
    assert not report.passed
    assert any(message in failure for failure in report.failures), report.failures


def test_an_output_without_values_fails() -> None:
    empty = np.zeros((0, 5), np.float32)
    result = compare_output(Pair("decoder", "rows", "logits", empty, empty), GOLDEN, THRESHOLDS["fp32"])
    assert not result.passed and result.problem == "there is nothing to compare"
