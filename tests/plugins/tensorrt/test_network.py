"""The plugin's way through TensorRT's parser and builder: the library, and the class in Python that stands in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from memvp_export.plugins.kernels import interface
from onnx import TensorProto, helper

from ...tensorrt_cpu import needs_tensorrt, run

HERE = Path(__file__).parent
CONTRACT = yaml.safe_load((HERE.parents[2] / "plugins" / "visual_memory_ffn.yaml").read_text())
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
ATTRIBUTES = {"scale": 0.5, "activation": "silu"}
WIDTH = 12

pytestmark = needs_tensorrt


def network(
    dtype: str = "float32",
    ffn_dtype: str | None = None,
    rows: int | str = 5,
    table_rows: int = 7,
    table_width: int = WIDTH,
    batch: int | str = "B",
    **attributes: Any,
) -> onnx.ModelProto:
    """One VisualMemoryFFN after a Relu, so that the network has a layer of TensorRT's own."""
    kind = TYPES[dtype]
    ports = [("x", kind, ["B", "T", WIDTH]), ("ffn", TYPES[ffn_dtype or dtype], ["B", "T", WIDTH])]
    ports.append(("visual", kind, [batch, rows, WIDTH]))
    tables = [
        helper.make_tensor(name, kind, [table_rows, table_width], np.zeros(table_rows * table_width))
        for name in ("keys", "values")
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["hidden"], name="before"),
        helper.make_node(
            CONTRACT["operator"],
            ["hidden", "ffn", "visual", "keys", "values"],
            ["y"],
            name="memory",
            domain=CONTRACT["domain"],
            **(attributes or ATTRIBUTES),
        ),
    ]
    inputs = [helper.make_tensor_value_info(*port) for port in ports]
    output = helper.make_tensor_value_info("y", kind, ["B", "T", WIDTH])
    graph = helper.make_graph(nodes, "network", inputs, [output], tables)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRACT["domain"], 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


GOOD = {dtype: network(dtype) for dtype in TYPES} | {
    **{name: network(scale=-2.0, activation=name) for name in ("relu", "gelu", "quick_gelu")},
    "one visual memory for all": network(batch=1),
    "as many rows as the tables": network(rows=7),
}
# What is wrong, and what the message must name, whichever of the two plugins says it.
BAD: dict[str, tuple[onnx.ModelProto, list[str]]] = {
    "unknown activation": (network(scale=1.0, activation="tanh"), ["activation", "tanh"]),
    "no scale": (network(activation="relu"), ["scale", "missing"]),
    "no activation": (network(scale=1.0), ["activation", "missing"]),
    "whole-number scale": (network(scale=1, activation="relu"), ["scale"]),
    "more rows than the tables": (network(rows=9), ["9", "only 7"]),
    "rows that are not fixed": (network(rows="v"), ["visual", "not fixed"]),
    "another width": (network(table_width=8), ["8", str(WIDTH)]),
    "two types": (network("float16", ffn_dtype="float32"), ["all inputs take one type"]),
}


def profile(model: onnx.ModelProto) -> dict[str, list[list[int]]]:
    shapes = {}
    for port in model.graph.input:
        dims = [one.dim_value or one.dim_param for one in port.type.tensor_type.shape.dim]
        if any(isinstance(one, str) for one in dims):
            sizes = {"B": (1, 2, 4), "T": (1, 8, 33), "v": (1, 5, 5)}
            shapes[port.name] = [[sizes[one][i] if isinstance(one, str) else one for one in dims] for i in range(3)]
    return shapes


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """All networks through the plugin `plugin` (a path or `python`), in one process, when first asked for."""
    folder = tmp_path_factory.mktemp("networks")
    models = GOOD | {name: model for name, (model, _) in BAD.items()}
    cases = []
    for index, model in enumerate(models.values()):
        onnx.save(model, folder / f"{index}.onnx")
        cases.append({"onnx": str(folder / f"{index}.onnx"), "shapes": profile(model)})
    (folder / "cases.json").write_text(json.dumps(cases))
    done: dict[str, dict[str, Any]] = {}

    def build(plugin: str) -> dict[str, Any]:
        if plugin not in done:
            result = json.loads(run(HERE / "build_networks.py", plugin, folder / "cases.json").splitlines()[-1])
            done[plugin] = result | {"networks": dict(zip(models, result["networks"], strict=True))}
        return done[plugin]

    return build


@pytest.fixture(params=["library", "python"])
def built(request: pytest.FixtureRequest, builds: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """What became of the networks, with each of the two plugins."""
    return builds("python" if request.param == "python" else str(request.getfixturevalue("plugin_library")))


def test_the_creator_says_what_the_contract_says(built: dict[str, Any]) -> None:
    kinds = {"float32": "FLOAT32", "string": "CHAR"}
    assert built["creator"] == {
        "operator": CONTRACT["operator"],
        "version": CONTRACT["version"],
        "namespace": CONTRACT["namespace"],
        "fields": {one["name"]: kinds[one["type"]] for one in CONTRACT["attributes"]},
    }


@pytest.mark.parametrize("name", GOOD)
def test_a_network_with_the_operator_becomes_an_engine_with_the_plugin(built: dict[str, Any], name: str) -> None:
    result = built["networks"][name]
    assert not result["errors"] and result["size"] > 0
    assert result["layers"].count("PLUGIN_V3") == 1
    (fused,) = result["fused"]
    tensorrt_name = {"float16": "Half", "bfloat16": "BFloat16"}.get(name, "Float")
    # A workspace is one more output, of bytes.
    assert fused["name"].startswith("memory")
    assert [kind for kind in fused["types"] if kind != "UInt8"] == [tensorrt_name] * 6


def test_the_engine_keeps_the_workspace_that_the_plugin_asked_for(
    builds: Callable[[str], dict[str, Any]], plugin_library: Path
) -> None:
    library = interface.open_library(plugin_library)
    for name, kind in interface.TYPES.items():
        # The largest call of the profile.
        problem = interface.Problem(4, 33, WIDTH, 5, 7, 4, kind, interface.ACTIVATIONS["silu"], ATTRIBUTES["scale"])
        needed = interface.workspace_bytes(library, problem).to_bytes(8, "little").hex()
        kept = builds(str(plugin_library))["networks"][name]["kept"]
        assert kept and all(needed in found for found in kept)


@pytest.mark.parametrize("name", BAD)
def test_what_the_contract_forbids_is_refused_with_a_message(built: dict[str, Any], name: str) -> None:
    result = built["networks"][name]
    said = "\n".join(result["errors"])
    assert result["size"] == 0 and not result["fused"]
    assert all(word in said for word in BAD[name][1]), said
