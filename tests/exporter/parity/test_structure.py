"""Graphs of one model in two precisions are the same; whatever else differs is named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import EnvironmentLack
from memvp_export.exporter.parity import twin
from memvp_export.exporter.parity.structure import MOST_REPORTED, structural_differences
from memvp_export.exporter.progress import Progress
from onnx import numpy_helper


def graphs(bundle_of: Callable[[str], Path], component: str) -> tuple[Path, Path]:
    half, single = (bundle_of(precision) / f"graphs/{component}.onnx" for precision in ("bf16", "fp32"))
    return half, single


@pytest.mark.parametrize("component", ["vision", "decoder"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_precisions_differ_in_nothing_else(bundle_of: Callable[[str], Path], component: str, precision: str) -> None:
    half, single = (bundle_of(each) / f"graphs/{component}.onnx" for each in (precision, "fp32"))
    assert structural_differences(half, single) == []


def node(graph: onnx.GraphProto, operator: str, number: int = 0) -> onnx.NodeProto:
    return [each for each in graph.node if each.op_type == operator][number]


def swap_inputs(model: onnx.ModelProto) -> None:
    inputs = node(model.graph, "Concat", 1).input
    inputs[0], inputs[1] = inputs[1], inputs[0]


def other_query(model: onnx.ModelProto) -> None:
    """The second layer reads the first layer's q: of the same shape, so that every checker is content."""
    names = [t.name for t in model.graph.initializer if t.name.endswith("q_proj.weight")]
    (reader,) = (each for each in model.graph.node if names[1] in each.input)
    reader.input[list(reader.input).index(names[1])] = names[0]


def change_scale(model: onnx.ModelProto) -> None:
    (scale,) = (each for each in node(model.graph, "VisualMemoryFFN", 1).attribute if each.name == "scale")
    scale.f *= 1.01


def change_constant(model: onnx.ModelProto) -> None:
    """An epsilon or a score's factor: the first inline value that is a fraction."""
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            continue
        array = numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.FLOAT and array.size == 1 and 0 < abs(float(array.item())) < 1:
            tensor.CopyFrom(numpy_helper.from_array((array * np.float32(1.1)).astype(np.float32), tensor.name))
            return
    raise AssertionError("no constant to change")


def change_shape_constant(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.data_type == onnx.TensorProto.INT64:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(array + 1, tensor.name))
            return


def change_function(model: onnx.ModelProto) -> None:
    body = model.functions[0].node
    (added,) = (each for each in body if list(each.output) == ["looked_up"])
    added.op_type = "Sub"


def change_function_constant(model: onnx.ModelProto) -> None:
    (end,) = (each for each in model.functions[0].node if list(each.output) == ["end"])
    end.attribute[0].ints[0] += 1


def drop_node(model: onnx.ModelProto) -> None:
    dropped = node(model.graph, "Softmax")
    for reader in model.graph.node:
        for index, name in enumerate(reader.input):
            if name == dropped.output[0]:
                reader.input[index] = dropped.input[0]
    model.graph.node.remove(dropped)


def swap_outputs(model: onnx.ModelProto) -> None:
    """Key and value of the first layer under each other's name."""
    names = {"present.0.key": "present.0.value", "present.0.value": "present.0.key"}
    for each in model.graph.node:
        for index, name in enumerate(each.output):
            each.output[index] = names.get(name, name)


def change_shape_of_weight(model: onnx.ModelProto) -> None:
    (tensor,) = (t for t in model.graph.initializer if t.name == "adapter_emb1")
    tensor.dims[0] -= 1


def transposed_mark(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if len(t.metadata_props))
    del tensor.metadata_props[:]


EDITS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "swapped inputs": (swap_inputs, "the inputs of"),
    "another weight": (other_query, "the inputs of"),
    "scale": (change_scale, "the attributes of"),
    "constant": (change_constant, "the constant"),
    "constant of a shape": (change_shape_constant, "the constant"),
    "function body": (change_function, "the function memvp.VisualMemoryFFN, the operator of looked_up: Sub"),
    "constant in a function": (change_function_constant, "the function memvp.VisualMemoryFFN, the inputs of"),
    "a node less": (drop_node, "stands where its float32 twin has"),
    "swapped outputs": (swap_outputs, "what makes the outputs"),
    "shape of a weight": (change_shape_of_weight, "the weight adapter_emb1"),
    "orientation of a weight": (transposed_mark, "the weight "),
}


@pytest.mark.parametrize(("edit", "message"), EDITS.values(), ids=list(EDITS))
def test_every_other_difference_is_named(
    bundle_of: Callable[[str], Path], tmp_path: Path, edit: Callable[[onnx.ModelProto], None], message: str
) -> None:
    half, single = graphs(bundle_of, "decoder")
    model = onnx.load(str(half), load_external_data=False)
    edit(model)
    changed = tmp_path / "decoder.onnx"
    changed.write_bytes(model.SerializeToString())
    found = structural_differences(changed, single)
    assert found and len(found) <= MOST_REPORTED + 1
    assert found[0].startswith("decoder.onnx: ") and any(message in text for text in found), found


def test_the_twin_lies_beside_the_bundle_and_is_removed(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(bundle_of("bf16"), tmp_path / "model.bundle"))
    left = tmp_path / ".model.bundle.partial-killed"
    left.mkdir()
    (left / "half.onnx").write_text("left by a run that was killed")
    progress = Progress()
    with twin.float32_twin(Bundle.open(root), progress) as (session, differences):
        (folder,) = (path for path in tmp_path.iterdir() if path != root)
        assert folder.name.startswith(".model.bundle.partial-") and folder != left
        assert differences == [] and all(graph.is_relative_to(folder) for graph in session.graphs.values())
    assert list(tmp_path.iterdir()) == [root]
    assert {"write vision", "write decoder"} <= {stage.name for stage in progress.stages}


def test_the_twin_of_a_bundle_whose_folder_cannot_be_written_is_a_temporary_one(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundle_of("bf16"))
    monkeypatch.setattr(twin.os, "access", lambda path, mode: False)
    monkeypatch.setattr(twin.tempfile, "gettempdir", lambda: str(tmp_path))
    with twin.float32_twin(bundle):
        assert [path.name.startswith(".bf16.partial-") for path in tmp_path.iterdir()] == [True]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_for_the_twin_is_said_before_anything_is_written(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: used)
    before = sorted(bundle_of("bf16").parent.iterdir())
    bundle = Bundle.open(bundle_of("bf16"))
    with pytest.raises(EnvironmentLack, match="the disk is too small"), twin.float32_twin(bundle):
        raise AssertionError("not reached")
    assert sorted(bundle_of("bf16").parent.iterdir()) == before
