"""The first node that leaves the tolerance is named, whatever is wrong, and nothing else is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.checkpoints.source import Source, read_source
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.models.component import Component
from memvp_export.exporter.parity import bisect as bisect_module
from memvp_export.exporter.parity import bisect_compare, bisect_probe, bisect_repair
from memvp_export.exporter.parity.bisect import bisect
from memvp_export.exporter.parity.bisect_probe import relative_l2, used_columns, used_elements
from memvp_export.exporter.parity.bisect_report import BisectReport, ComponentErrors
from memvp_export.exporter.parity.bisect_text import lines
from memvp_export.exporter.progress import Progress
from onnx.external_data_helper import ExternalDataInfo

from .edits import rewrite

LAYER, TOWER = "model.layers.1.mlp.down_proj", "visual.transformer.resblocks.0.mlp.c_fc"


@pytest.fixture
def source(odd_source: Path) -> Source:
    return read_source(odd_source)


@pytest.fixture
def copy(bundle_of: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_of("fp16"), tmp_path / "beside" / "copy"))


@pytest.fixture
def exported_twin(bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The float32 bundle of the same source has the graphs that would be traced again, which takes seconds; a copy."""
    root = Path(shutil.copytree(bundle_of("fp32"), tmp_path / "twin"))

    def write(task: object, component: Component, folder: Path) -> Path:
        name = f"{component.name}.onnx"
        for file in (name, f"{name}.data"):
            shutil.copyfile(root / "graphs" / file, folder / file)
        return folder / name

    monkeypatch.setattr(bisect_module, "_write_twin", write)
    monkeypatch.setattr(bisect_repair, "_TRIALS", 0)
    return root


def damage(root: Path, component: str, tensor: str, value: float = 2, dtype: type = np.float16) -> None:
    """Overwrite a thousand values of a weight."""

    def edit(data: Path) -> None:
        graph = onnx.load(data.with_suffix(""), load_external_data=False).graph
        (found,) = (each for each in graph.initializer if each.name == tensor)
        with data.open("r+b") as file:
            file.seek(int(ExternalDataInfo(found).offset or 0))
            file.write(np.full(1000, value, dtype).tobytes())

    rewrite(root, f"graphs/{component}.onnx.data", edit)


def edit_graph(root: Path, component: str, edit: Callable[[dict[str, onnx.NodeProto]], object]) -> None:
    def apply(path: Path) -> None:
        model = onnx.load(path, load_external_data=False)
        edit({node.name: node for node in model.graph.node})
        path.write_bytes(model.SerializeToString())

    rewrite(root, f"graphs/{component}.onnx", apply)


def swap_inputs(node: onnx.NodeProto) -> None:
    node.input[0], node.input[1] = node.input[1], node.input[0]


def parts(report: BisectReport) -> dict[str, ComponentErrors]:
    return {part.component: part for part in report.components}


def strict_json(report: BisectReport) -> dict[str, object]:
    data: dict[str, object] = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    return data


def test_damaged_weights_are_named_in_each_component_by_the_source(
    copy: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in the tower does not hide the other, in the decoder's layer 1; here the graphs are really traced again."""
    monkeypatch.setattr(bisect_repair, "_TRIALS", 0)
    damage(copy, "vision", f"{TOWER}.weight")
    damage(copy, "decoder", f"{LAYER}.weight")
    progress = Progress()
    report = bisect(Bundle.open(copy), source=source, progress=progress)
    for component, module in (("vision", TOWER), ("decoder", LAYER)):
        first = parts(report)[component].first
        assert first is not None and (first.module, first.op) == (module, "MatMul")
        assert first.error > 0.05 and first.inputs and max(first.inputs.values()) < 2e-3
        assert first.weights[f"{module}.weight"] > 0.05 and "damaged" in first.problem
        # float32 would not repair it.
        assert module not in parts(report)[component].keep_fp32
    assert not report.passed and report.verdict.startswith(f"vision: the error enters at {TOWER}/MatMul")
    text = "\n".join(lines(report))
    assert f"decoder: the error enters at {LAYER}/MatMul" in text and text.endswith(report.verdict)
    assert "--source" not in text
    assert strict_json(report)["passed"] is False
    assert {"trace decoder in float32", "compare the nodes of decoder"} <= {stage.name for stage in progress.stages}
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


@pytest.mark.usefixtures("exported_twin")
def test_a_sound_half_bundle_leaves_the_tolerance_nowhere(copy: Path) -> None:
    report = bisect(Bundle.open(copy))
    assert report.passed and report.first is None and "nothing leaves" in report.verdict
    assert all(part.compared > 100 and not part.unpaired and not part.keep_fp32 for part in report.components)
    # A damaged weight would have been in the reference too.
    assert any("--source" in note for note in report.notes)
    assert strict_json(report)["passed"] is True


@pytest.mark.usefixtures("exported_twin")
@pytest.mark.parametrize(
    ("component", "node"), [("decoder", "model.layers.1.self_attn.v_proj/Sub"), ("vision", "visual.ln_pre/Sub")]
)
def test_swapped_inputs_of_a_node_are_found_by_its_name_without_a_source(copy: Path, component: str, node: str) -> None:
    edit_graph(copy, component, lambda nodes: swap_inputs(nodes[node]))
    report = bisect(Bundle.open(copy))
    assert report.first is not None and report.first.node == node and report.first.error > 0.5
    assert report.first.problem.startswith(f"the graph was edited: {node} reads")
    assert max(report.first.inputs.values()) < 2e-3
    assert [part.component for part in report.components if part.first] == [component]


def test_an_overflow_of_half_is_found_and_float32_repairs_its_module(
    copy: Path, exported_twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference and bundle have the same weights here: it is the precision that fails."""
    module = "model.layers.1.self_attn.q_proj"
    damage(copy, "decoder", f"{module}.weight", 6e4)
    damage(exported_twin, "decoder", f"{module}.weight", 6e4, np.float32)
    monkeypatch.setattr(bisect_repair, "_TRIALS", 1)
    report = bisect(Bundle.open(copy))
    assert report.first is not None and report.first.node == f"{module}/MatMul"
    assert "beyond the range of fp16" in report.first.problem and max(report.first.weights.values()) < 1e-3
    assert parts(report)["decoder"].keep_fp32 == [module]
    assert parts(report)["decoder"].repaired is True
    told = f"tried, with these nothing leaves the tolerance: --keep-fp32 '{module}'"
    assert any(line.strip() == told for line in lines(report))
    assert strict_json(report)["components"][1]["entries"][0]["error"] is None  # type: ignore[index]


@pytest.mark.usefixtures("exported_twin")
def test_a_changed_attribute_and_a_renamed_node_are_told(copy: Path) -> None:
    def edit(nodes: dict[str, onnx.NodeProto]) -> None:
        nodes["model.layers.2.input_layernorm/Mul"].name = "mine"
        (memory,) = (n for n in nodes.values() if n.name == "model.layers.0.mlp.down_proj/VisualMemoryFFN")
        next(a for a in memory.attribute if a.name == "scale").f *= 3

    edit_graph(copy, "decoder", edit)
    report = bisect(Bundle.open(copy))
    assert report.first is not None and report.first.op == "VisualMemoryFFN" and "attributes" in report.first.problem
    assert parts(report)["decoder"].unpaired == ["mine"]
    assert any("mine" in note for note in report.notes)


@pytest.mark.usefixtures("exported_twin")
@pytest.mark.parametrize(("name", "value"), [("CHUNK_TENSORS", 12), ("CHUNK_BYTES", 3 << 20)])
def test_the_size_of_a_chunk_does_not_change_the_result(
    copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    damage(copy, "decoder", f"{LAYER}.weight")
    runs: list[int] = []
    run = bisect_probe.run_graph

    def counted(model: onnx.ModelProto, path: Path, outputs: list[str], *rest: object) -> object:
        runs.append(len(outputs))
        return run(model, path, outputs, *rest)  # type: ignore[arg-type]

    for module in (bisect_compare, bisect_probe):
        monkeypatch.setattr(module, "run_graph", counted)
    whole = parts(bisect(Bundle.open(copy)))["decoder"]
    few = len(runs)
    runs.clear()
    monkeypatch.setattr(bisect_probe, name, value)
    pieces = parts(bisect(Bundle.open(copy)))["decoder"]
    assert len(runs) > 1.5 * few
    assert whole.first is not None and pieces.first is not None
    assert whole.first.node == pieces.first.node == f"{LAYER}/MatMul" and whole.compared == pieces.compared
    # Between half nodes ONNX Runtime rounds where an output is asked for.
    assert pieces.first.error == pytest.approx(whole.first.error, rel=1e-3)
    assert pieces.modules == pytest.approx(whole.modules, rel=1e-3)
    if name == "CHUNK_TENSORS":
        assert max(runs) <= value


@pytest.mark.usefixtures("exported_twin")
def test_nothing_stays_beside_the_bundle_when_a_graph_cannot_be_run(copy: Path) -> None:
    edit_graph(copy, "decoder", lambda nodes: nodes["lm_head/MatMul"].input.__setitem__(0, "nowhere"))
    with pytest.raises(InputError, match="decoder"):
        bisect(Bundle.open(copy))
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_bf16_is_refused_with_what_to_do(copy: Path) -> None:
    with pytest.raises(EnvironmentLack, match=r"no bfloat16.*fp32 or fp16"):
        bisect(Bundle.open(copy), "bf16")


def test_modules_that_differ_in_their_layer_alone_share_a_pattern() -> None:
    modules = ["model.layers.0.mlp.up_proj", "lm_head", "model.layers.12.mlp.up_proj", "visual.resblocks.3.attn"]
    expected = ["model.layers.*.mlp.up_proj", "lm_head", "visual.resblocks.3.attn"]
    assert bisect_repair._globs([*modules, modules[0]]) == expected


def test_padding_and_the_fill_of_masks_do_not_count() -> None:
    mask = np.array([[0, 1, 1], [1, 1, 0]])
    columns = used_columns({"attention_mask": mask, "input_ids": mask, "logits_positions": np.array([[0], [1]])})
    assert columns["positions"].tolist() == [[False], [True]]
    kept = used_elements(["batch", 2, "sequence", "past_sequence + sequence"], columns)
    assert kept is not None and kept.shape == (2, 1, 3, 3) and kept[0, 0].sum() == 4 and not kept[0, 0, :, 0].any()
    assert used_elements(["sequence", 1], columns) is None and used_elements(["batch", 4], {}) is None
    expected = np.ones((2, 3, 4), np.float32)
    actual = expected.copy()
    actual[0, 0], actual[1, 2] = 7, np.nan
    assert relative_l2(actual, expected, used_elements(["batch", "sequence", 4], columns)) == 0
    assert relative_l2(actual, expected, None) == np.inf
    expected[0, 1, 0], actual[0, 1, 0] = -1.7e38, -1.6e38
    actual[0, 1, 1] = 3
    kept = used_elements(["batch", "sequence", 4], columns)
    assert relative_l2(actual, expected, kept) == pytest.approx(2 / np.sqrt(15))


def test_large_values_and_half_overflow() -> None:
    large = np.array([3e25, 4e25], np.float32)
    assert relative_l2(large * np.float32(1.01), large, None) == pytest.approx(0.01, rel=1e-3)
    with np.errstate(over="ignore"):
        assert relative_l2(np.array([7e4], np.float32).astype(np.float16), np.array([7e4], np.float32), None) == np.inf
    assert (
        relative_l2(np.zeros(2), np.zeros(2), None) == 0 and 1e30 < relative_l2(np.ones(2), np.zeros(2), None) < np.inf
    )
    assert relative_l2(np.ones((2, 1)), np.ones(2), None) == np.inf
