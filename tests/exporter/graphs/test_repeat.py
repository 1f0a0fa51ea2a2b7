"""A graph of three layers made deeper is the graph of all layers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from memvp_export import read_source
from memvp_export.examples import random_clip, random_diffusion, random_meter, random_source, random_vilt
from memvp_export.exporter.graphs import trace as tracer
from memvp_export.exporter.graphs.repeat import put_in_order, repeat_middle
from memvp_export.exporter.models.component import Component, Depth, Weight
from memvp_export.exporter.models.family import load
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

STEMS = ("layers", "past", "present")
WIDTH = 3


def chain(layers: int, odd: int | None = None, tap: str = "bias", out: str | None = None) -> onnx.ModelProto:
    """y = x through `layers` of x + relu(x w_i + past_i) * 0.5 v_i, less what `tap` names, each sum an output; layer
    `odd` has another activation, `out` is one more output."""
    nodes, x = [helper.make_node("Neg", ["x"], ["h.0"])], "h.0"
    ports = [("x", None)]
    for i in range(layers):
        activation = "Sigmoid" if i == odd else "Relu"
        nodes += [
            helper.make_node("MatMul", [x, f"layers.{i}.w"], [f"m.{i}"]),
            helper.make_node("Add", [f"m.{i}", f"past.{i}.k"], [f"present.{i}.k"]),
            helper.make_node(activation, [f"present.{i}.k"], [f"r.{i}"]),
            helper.make_node("Mul", [f"r.{i}", f"half.{i}"], [f"s.{i}"]),
            helper.make_node("MatMul", [f"s.{i}", f"layers.{i}.v"], [f"a.{i}"]),
            helper.make_node("Add", [x, f"a.{i}"], [f"h.{i + 1}"]),
        ]
        x, ports = f"h.{i + 1}", [*ports, (f"past.{i}.k", None)]
    nodes.append(helper.make_node("Sub", [x, tap], ["y"]))
    random = np.random.default_rng(1)
    names = [f"layers.{i}.{kind}" for i in range(9) for kind in "wv"]
    weights = {name: random.standard_normal((WIDTH, WIDTH)).astype(np.float32) for name in names}
    constants = {f"half.{i}": np.float32([0.5]) for i in range(layers)} | {"bias": np.float32([2, 3, 4])}
    used = {name: array for name, array in weights.items() if int(name.split(".")[1]) < layers} | constants
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name, _ in ports]
    outputs = ["y", *(f"present.{i}.k" for i in range(layers)), *([out] if out else [])]
    graph = helper.make_graph(
        nodes,
        "chain",
        values,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in used.items()],
    )
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


def deepened(layers: int, **kind: object) -> tuple[bool, ir.Model]:
    """Three layers made `layers`, with the weights that a chain of so many has."""
    model, whole = ir.from_proto(chain(3, **kind)), ir.from_proto(chain(layers))  # type: ignore[arg-type]
    done = repeat_middle(model, STEMS, layers)
    if done:
        inputs, outputs = ([value.name or "" for value in side] for side in (whole.graph.inputs, whole.graph.outputs))
        put_in_order(model, [f"layers.{i}.{kind}" for i in range(layers) for kind in "wv"], inputs, outputs)
        for name, value in model.graph.initializers.items():
            if name.startswith("layers."):
                value.const_value = whole.graph.initializers[name].const_value
    return done, model


@pytest.mark.parametrize("layers", [4, 5, 9])
def test_a_deeper_chain_computes_what_the_whole_one_does(layers: int) -> None:
    done, model = deepened(layers)
    made, whole = ir.to_proto(model), chain(layers)
    assert done and len(made.graph.node) == len(whole.graph.node)
    onnx.checker.check_model(made, full_check=True)
    random = np.random.default_rng(0)
    feed = {value.name: random.standard_normal((2, WIDTH)).astype(np.float32) for value in whole.graph.input}
    results = zip(ReferenceEvaluator(made).run(None, feed), ReferenceEvaluator(whole).run(None, feed), strict=True)
    for result, expected in results:
        np.testing.assert_array_equal(result, expected)
    assert [value.name for value in made.graph.output] == [value.name for value in whole.graph.output]
    for name in (f"past.{layers - 2}.k", "x"):
        moved = ReferenceEvaluator(made).run(["y"], {**feed, name: feed[name] + 1})[0]
        assert np.abs(moved - ReferenceEvaluator(made).run(["y"], feed)[0]).max() > 0.1


@pytest.mark.parametrize(
    "kind", [{"odd": 0}, {"odd": 1}, {"odd": 2}, {"tap": "r.0"}, {"tap": "r.1"}, {"out": "r.1"}], ids=str
)
def test_layers_that_differ_are_left_as_they_are(kind: dict[str, object]) -> None:
    done, model = deepened(5, **kind)
    assert not done
    before = ir.to_proto(ir.from_proto(chain(3, **kind)))  # type: ignore[arg-type]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


def test_a_layer_kept_in_float32_is_not_copied() -> None:
    """One of the layers has wider weights: the graph of three cannot stand for all."""
    weights = {f"layers.{i}.w": Weight((WIDTH, WIDTH)) for i in range(5)}
    component = Component("chain", (), (), weights, lambda: (), {}, depth=Depth((STEMS,), lambda most: component))
    assert tracer._deepened(component, "fp16", 20, {"layers.3.w"}) is None


def decoder(folder: Path) -> Component:
    random_source.write_source(folder, replace(random_source.PRESETS["odd"], layers=4))
    return load(read_source(folder)).components[-1]


def vision(folder: Path) -> Component:
    random_source.write_source(folder, replace(random_source.PRESETS["odd"], tower_blocks=6))
    return load(read_source(folder)).components[0]


def diffusion_text(folder: Path) -> Component:
    random_diffusion.write_source(folder, replace(random_diffusion.PRESETS["odd"], text_layers=4))
    return load(read_source(folder)).components[0]


def vilt(folder: Path) -> Component:
    random_vilt.write_source(folder, replace(random_vilt.PRESETS["odd"], blocks=5), "nlvr2")
    return load(read_source(folder)).components[0]


def meter(folder: Path) -> Component:
    random_meter.write_source(folder, replace(random_meter.PRESETS["odd"], layers=4, text_layers=5, blocks=6), "vqa")
    return load(read_source(folder)).components[0]


def clip_image(folder: Path) -> Component:
    random_clip.write_source(folder, replace(random_clip.PRESETS["odd"], layers=5, image_prompts=5))
    return load(read_source(folder)).components[0]


def clip_text(folder: Path) -> Component:
    random_clip.write_source(folder, replace(random_clip.PRESETS["odd"], text_layers=5))
    return load(read_source(folder)).components[1]


@pytest.mark.parametrize(
    ("make", "precision"),
    [
        (decoder, "fp16"),
        pytest.param(vision, "fp16", marks=pytest.mark.slow),
        pytest.param(clip_image, "fp16", marks=pytest.mark.slow),
        pytest.param(clip_text, "fp32", marks=pytest.mark.slow),
        pytest.param(diffusion_text, "fp16", marks=pytest.mark.slow),
        pytest.param(vilt, "bf16", marks=pytest.mark.slow),
        pytest.param(meter, "fp32", marks=pytest.mark.slow),
    ],
)
def test_a_model_is_traced_to_the_same_bytes_either_way(
    make: Callable[[Path], Component], precision: str, tmp_path: Path
) -> None:
    component = make(tmp_path)
    assert component.depth is not None and len(component.depth.at(3).weights) < len(component.weights)
    opset = tracer.default_opset(precision)
    short, whole = (tracer.trace(part, precision, opset) for part in (component, replace(component, depth=None)))
    for one, other in zip(short.graph.initializers.values(), whole.graph.initializers.values(), strict=True):
        assert (one.name, one.shape, one.type, one.metadata_props) == (
            other.name, other.shape, other.type, other.metadata_props
        )  # fmt: skip
    proto, expected = (ir.to_proto(model).SerializeToString(deterministic=True) for model in (short, whole))
    assert proto == expected
