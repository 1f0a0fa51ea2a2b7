"""Lowered graphs for the parsers of TensorRT 8: equal to the others in ONNX Runtime, and of forms that those read."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from math import erf, pi, sqrt, tanh
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from memvp_export import export_onnx, read_source
from memvp_export.examples.random_vilt import PRESETS, write_source
from memvp_export.exporter.bundle import Bundle
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.graphs.lowering import Lowered, lower
from memvp_export.exporter.graphs.lowering.opset17 import refuse_misread, to_opset17
from onnx import TensorProto, helper, numpy_helper

from .decoder_inputs import decoder_inputs
from .parser8 import run_as_read

Arrays = dict[str, np.ndarray]
LoweredOf = Callable[..., Lowered]
Run = Callable[[Path, Arrays], Arrays]
WAYS: tuple[dict[str, Any], ...] = ({}, {"cache": "concat"}, {"single_pass": True}, {"plugin": True})
HALF, FLOAT, INT64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64


def difference(old: Arrays, new: Arrays) -> float:
    """The largest one of all outputs, relative to the output's largest number."""
    assert old.keys() == new.keys()
    pairs = [(old[name].astype(np.float64), new[name].astype(np.float64)) for name in old]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def narrowed(lowered: Lowered, inputs: Arrays) -> Arrays:
    """Integers as the ports of this graph have them."""
    dtypes = {port["name"]: port["dtype"] for port in lowered.inputs}
    assert "int64" not in dtypes.values()
    return {name: inputs[name].astype(dtype) for name, dtype in dtypes.items()}


def graph(lowered: Lowered) -> onnx.ModelProto:
    return onnx.load(lowered.path, load_external_data=False)


@pytest.fixture(scope="module")
def vilt(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """A bundle of APT-ViLT with one block, in each of two precisions."""
    folder = tmp_path_factory.mktemp("vilt")
    write_source(folder / "source", replace(PRESETS["odd"], blocks=1), "nlvr2")

    @cache
    def make(precision: str) -> Bundle:
        return export_onnx(read_source(folder / "source"), folder / precision, precision, golden=False)

    return make


def run_decoder(lowered: Lowered, run: Run, inputs: Arrays, bodies: Sequence[onnx.FunctionProto] = ()) -> Arrays:
    if bodies:
        model = graph(lowered)
        model.functions.extend(bodies)
        model.opset_import.append(helper.make_opsetid("memvp", 1))
        del model.opset_import[1:-1]
        path = lowered.path.with_name("with_bodies.onnx")
        onnx.save(model, path)
        return run(path, inputs)
    return run(lowered.path, inputs)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 2e-3)])
def test_a_decoder_computes_the_same(
    lowered_of: LoweredOf,
    bundle_of: Callable[[str], Path],
    run: Run,
    precision: str,
    tolerance: float,
    way: dict[str, Any],
) -> None:
    """A lookup that is left to the plugin gets the body that is published with it."""
    old, new = lowered_of("decoder", precision, **way), lowered_of("decoder", precision, opset17=True, **way)
    bodies = onnx.load(bundle_of(precision) / "graphs" / "decoder.onnx", load_external_data=False).functions
    left = bodies if way.get("plugin") else ()
    assert (new.lowering, new.memory_sites, new.cache, new.ranges) == (
        *(old.lowering, old.memory_sites),
        *(old.cache, old.ranges),
    )
    assert [port["dims"] for port in new.inputs] == [port["dims"] for port in old.inputs]
    first, second = (
        decoder_inputs(precision, 2, *columns) for columns in ((5, 0 if way.get("single_pass") else 7), (3, 0))
    )
    for inputs in (first, second):
        made = run_decoder(new, run, narrowed(new, inputs), left)
        assert difference(run_decoder(old, run, inputs, left), made) <= tolerance
    other = {**narrowed(new, second), "input_ids": (narrowed(new, second)["input_ids"] + 1) % 150}
    assert difference(made, run_decoder(new, run, other, left)) > 0.01


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 2e-3)])
def test_a_tower_computes_the_same(lowered_of: LoweredOf, run: Run, precision: str, tolerance: float) -> None:
    old, new = lowered_of("vision", precision), lowered_of("vision", precision, opset17=True)
    dims = next(port["dims"] for port in old.inputs if port["name"] == "pixel_values")
    pixels = np.random.default_rng(3).standard_normal((2, *dims[1:])).astype(np.float32)
    inputs = {"pixel_values": pixels, "image_indicator": np.array([1, 0])}
    inputs = {port["name"]: inputs[port["name"]].astype(port["dtype"]) for port in old.inputs}
    found = run(new.path, narrowed(new, inputs))
    assert difference(run(old.path, inputs), found) <= tolerance
    assert difference(found, run(new.path, narrowed(new, {**inputs, "pixel_values": pixels[::-1]}))) > 0.1


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-6), pytest.param("fp16", 5e-3, marks=pytest.mark.slow)]
)
def test_a_model_with_approximated_prompts_computes_the_same(
    vilt: Callable[[str], Bundle], run: Run, tmp_path: Path, precision: str, tolerance: float
) -> None:
    made: dict[bool, Lowered] = {}
    for old in (True, False):
        folder = tmp_path / str(old)
        folder.mkdir()
        made[old] = lower(vilt(precision), "model", precision, folder, plugin=True, portable=True, opset17=not old)
    rng = np.random.default_rng(5)
    inputs = {}
    for port in made[True].inputs:
        shape = [dim if isinstance(dim, int) else {"batch": 2, "sequence": 5}[dim] for dim in port["dims"]]
        numbers = rng.standard_normal(shape) if port["dtype"] != "int64" else rng.integers(0, 9, shape)
        inputs[port["name"]] = (np.ones(shape) if "mask" in port["name"] else numbers).astype(port["dtype"])
    inputs["pixel_mask"][0, :, 64:] = 0
    inputs["attention_mask"][1, 3:] = 0
    found = run(made[False].path, narrowed(made[False], inputs))
    assert difference(run(made[True].path, inputs), found) <= tolerance
    assert precision != "fp32" or difference(found, run_as_read(onnx.load(made[False].path), inputs)) < 1e-5
    inputs["pixel_mask"][1, 32:] = 0
    assert difference(found, run(made[False].path, narrowed(made[False], inputs))) > 3 * tolerance


@pytest.mark.parametrize("component", ["vision", "decoder"])
def test_as_those_parsers_read_it_it_computes_what_is_meant(lowered_of: LoweredOf, run: Run, component: str) -> None:
    """The graph of the other targets, read so, does not even fit together."""
    old, new = lowered_of(component, "fp32"), lowered_of(component, "fp32", opset17=True)
    inputs = decoder_inputs("fp32", 2, 3, 4) | {"image_indicator": np.array([1, 0], np.float32)}
    ports = {port["name"]: port["dims"] for port in old.inputs}
    inputs["pixel_values"] = np.ones((2, *ports.get("pixel_values", [2])[1:]), np.float32)
    inputs["pixel_values"][1:] = -1
    inputs = {name: inputs[name].astype(port["dtype"]) for port in old.inputs for name in [port["name"]]}
    assert difference(run(old.path, inputs), run_as_read(onnx.load(new.path), inputs)) < 1e-5
    with pytest.raises(ValueError, match="array"):
        run_as_read(onnx.load(old.path), inputs)


def test_a_lowered_graph_is_of_opset_17_and_has_names(lowered_of: LoweredOf) -> None:
    lowered = lowered_of("decoder", "fp16", opset17=True)
    model = graph(lowered)
    onnx.checker.check_model(str(lowered.path), full_check=True)
    assert ([(one.domain, one.version) for one in model.opset_import], model.ir_version) == ([("", 17)], 8)
    names = [node.name for node in model.graph.node]
    assert all(names) and len({*names}) == len(names)
    ports = {port["name"]: port["dtype"] for port in (*lowered.inputs, *lowered.outputs)}
    assert ports["input_ids"] == ports["attention_mask"] == "int32" and ports["logits"] == "float32"
    for tensor in model.graph.initializer:
        if tensor.data_type == INT64:
            assert np.abs(numpy_helper.to_array(tensor)).max(initial=0) < 1 << 31


def small(nodes: list[onnx.NodeProto], dtype: int = FLOAT, **stored: np.ndarray) -> onnx.ModelProto:
    """x [rows,6] -> y."""
    ports = [
        helper.make_tensor_value_info("x", dtype, ["rows", 6]),
        helper.make_empty_tensor_value_info("y"),
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    made = helper.make_graph(nodes, "small", ports[:1], ports[1:], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def result(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


NUMBERS = np.random.default_rng(0).normal(0, 3, (4, 6)).astype(np.float32)
node = helper.make_node


@pytest.mark.parametrize(
    ("approximate", "formula"),
    [
        ("none", lambda x: x * (1 + erf(x / sqrt(2))) / 2),
        ("tanh", lambda x: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(FLOAT, 1e-6), (HALF, 4e-3)])
def test_gelu(approximate: str, formula: Callable[[float], float], dtype: int, tolerance: float) -> None:
    model = small([node("Gelu", ["x"], ["y"], approximate=approximate)], dtype)
    to_opset17(model)
    x = np.append(NUMBERS, [[0, -60, 60, -1e-3, 1e-3, 5]], 0).astype(np.float16 if dtype == HALF else np.float32)
    found = result(model, x)
    assert found.dtype == x.dtype and np.isfinite(found).all()
    assert np.abs(found - np.vectorize(formula)(x.astype(np.float64))).max() < tolerance
    assert {one.op_type for one in model.graph.node} <= {"Div", "Erf", "Add", "Mul", "Tanh"}


def normed(x: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and about variance 1, with an epsilon of 0.5."""
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 0.5)


CAST = [node("Cast", ["x"], ["h"], to=HALF), node("Cast", ["h"], ["y"], to=FLOAT)]
SMALL = {
    "CastLike": ([*CAST[:1], node("CastLike", ["h", "x"], ["y"])], {}, lambda x: x.astype(np.float16)),
    "a Constant": (
        [node("Constant", [], ["c"], value_ints=[1]), node("Gather", ["x", "c"], ["y"], axis=1)],
        {},
        lambda x: x[:, 1:2],
    ),
    "a Constant of one number": (
        [node("Constant", [], ["c"], value_float=1.5), node("Add", ["x", "c"], ["y"])],
        {},
        lambda x: x + np.float32(1.5),
    ),
    "ReduceMax": (
        [node("ReduceMax", ["x", "a"], ["y"], keepdims=0)],
        {"a": np.array([-1])},
        lambda x: x.max(-1),
    ),
    "ReduceMean": ([node("ReduceMean", ["x", "a"], ["y"])], {"a": np.array([0])}, lambda x: x.mean(0, keepdims=True)),
    "InstanceNormalization": (
        [
            node("Reshape", ["x", "parts"], ["r"]),
            node("InstanceNormalization", ["r", "w", "b"], ["n"], epsilon=0.5),
            node("Reshape", ["n", "whole"], ["y"]),
        ],
        {
            "parts": np.array([-1, 2, 3]),
            "whole": np.array([-1, 6]),
            "w": np.array([2, -1], np.float32),
            "b": np.array([0, 3], np.float32),
        },
        lambda x: np.concatenate([normed(x[:, :3]) * 2, 3 - normed(x[:, 3:])], 1),
    ),
    "Resize": (
        [
            node("Unsqueeze", ["x", "outer"], ["u"]),
            node(
                "Resize",
                ["u", "", "scales"],
                ["r"],
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
                antialias=0,
                keep_aspect_ratio_policy="stretch",
            ),
            node("Squeeze", ["r", "outer"], ["y"]),
        ],
        {"outer": np.array([0, 1]), "scales": np.array([1, 1, 2, 2], np.float32)},
        lambda x: x.repeat(2, 0).repeat(2, 1),
    ),
    "Split": (
        [node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3), node("Sub", ["c", "a"], ["y"])],
        {},
        lambda x: x[:, 4:] - x[:, :2],
    ),
    "Split in unequal parts": (
        [node("Split", ["x", "s"], ["a", "b"], axis=-1), node("Gather", ["b", "i"], ["y"], axis=1)],
        {"s": np.array([2, 4]), "i": np.array([0])},
        lambda x: x[:, 2:3],
    ),
    "Shape": (
        [node("Shape", ["x"], ["s"], start=-1), node("Cast", ["s"], ["f"], to=FLOAT), node("Mul", ["x", "f"], ["y"])],
        {},
        lambda x: x * 6,
    ),
    "Shape of a part": (
        [
            *(node("Shape", ["x"], ["s"], start=0, end=1), node("Cast", ["s"], ["f"], to=FLOAT)),
            node("Mul", ["x", "f"], ["y"]),
        ],
        {},
        lambda x: x * 4,
    ),
    "Slice to the end": (
        [node("Slice", ["x", "i", "e", "i"], ["y"])],
        {"i": np.array([1]), "e": np.array([(1 << 63) - 1])},
        lambda x: x[:, 1:],
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_node_is_rewritten(name: str) -> None:
    nodes, stored, formula = SMALL[name]
    model = small(nodes, **stored)
    to_opset17(model)
    assert np.abs(result(model, NUMBERS) - formula(NUMBERS)).max() < 1e-5
    assert np.abs(run_as_read(model, {"x": NUMBERS})["y"] - formula(NUMBERS)).max() < 1e-5


@pytest.mark.parametrize("name", ["ReduceMax", "ReduceMean", "a Constant"])
def test_without_that_it_is_misread_in_silence(name: str) -> None:
    nodes, stored, formula = SMALL[name]
    found = run_as_read(small(nodes, **stored), {"x": NUMBERS})["y"]
    assert found.shape != formula(NUMBERS).shape or np.abs(found - formula(NUMBERS)).max() > 0.1


REFUSED = {
    "no importer for LayerNormalization": (
        [node("LayerNormalization", ["x", "w"], ["y"])],
        {"w": np.ones(6, np.float32)},
    ),
    "Shape with start or end": (
        [node("Shape", ["x"], ["s"], start=1), node("Cast", ["s"], ["f"], to=FLOAT), node("Mul", ["x", "f"], ["y"])],
        {},
    ),
    "ReduceMean of a newer opset than 17": ([node("ReduceMean", ["x", "a"], ["y"])], {"a": np.array([1])}),
    "ReduceSum without stored axes": (
        [node("Shape", ["s"], ["a"]), node("ReduceSum", ["x", "a"], ["y"])],
        {"s": np.ones(1, np.float32)},
    ),
    "ReduceSum of integers": (
        [
            *(node("Cast", ["x"], ["i"], to=INT64), node("ReduceSum", ["i", "a"], ["n"])),
            node("Cast", ["n"], ["y"], to=FLOAT),
        ],
        {"a": np.array([1])},
    ),
    "Pad of a newer opset than 17": (
        [node("Pad", ["x", "p", "", "a"], ["y"])],
        {"p": np.array([0, 1]), "a": np.array([1])},
    ),
    "no importer for Constant": ([node("Constant", [], ["c"], value_float=1.0), node("Add", ["x", "c"], ["y"])], {}),
    "of float64": (
        [node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE), node("Cast", ["d"], ["y"], to=FLOAT)],
        {},
    ),
    "no importer for InstanceNormalization": (
        [
            node("Reshape", ["x", "r"], ["s"]),
            node("InstanceNormalization", ["s", "w", "w"], ["n"]),
            node("Reshape", ["n", "x6"], ["y"]),
        ],
        {"r": np.array([-1, 2, 3]), "x6": np.array([-1, 6]), "w": np.ones(2, np.float32)},
    ),
    "Resize of a newer opset than 17": (
        [node("Resize", ["x", "", "s"], ["y"], antialias=1, mode="linear")],
        {"s": np.array([1, 2], np.float32)},
    ),
    "no importer for IsInf": (
        [node("IsInf", ["x"], ["b"]), node("Cast", ["b"], ["y"], to=FLOAT)],
        {},
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_the_parser_misreads_is_refused_if_it_is_left(fault: str) -> None:
    nodes, stored = REFUSED[fault]
    with pytest.raises(InputError, match=rf"TensorRT 8 cannot take graph 'small': .*{fault}"):
        refuse_misread(small(nodes, **stored))


def test_what_cannot_be_rewritten_is_refused() -> None:
    computed = [node("Shape", ["s"], ["a"]), node("ReduceMax", ["x", "a"], ["y"])]
    with pytest.raises(InputError, match="its axes are computed"):
        to_opset17(small(computed, s=np.ones(1, np.float32)))
    large = [node("Gather", ["t", "i"], ["u"]), node("Cast", ["u"], ["f"], to=FLOAT), node("Add", ["x", "f"], ["y"])]
    with pytest.raises(InputError, match="t: it holds numbers beyond 32 bits"):
        to_opset17(small(large, t=np.array([1 << 40]), i=np.array([0])))
