"""Layers read from TensorRT's texts: the log of a build, and the inspector's JSON of TensorRT 10 and of 11."""

import json

import pytest
from memvp_export.exporter.engines.engine_contents import (
    dtype_name,
    layers_of_inspector,
    layers_of_log,
    of_profile,
    ports_of_log,
)

LOG = """Layers:
Name: [Copy 0], LayerType: ShapeHostToDevice, Inputs: [], Outputs: [ { Name: (Layer* 46) [Shuffle]_output, Location: \
Device, Dimensions: [1], Datatype: Int64, Format: not available }], ParameterType: ShapeH2D, StreamId: 0, Metadata:
Name: b/MatMul+a/MatMul_myl1_2, LayerType: gemm, Inputs: [ { Name: hidden, Dimensions: [-1,96], Strides: [96,1], \
Datatype: Half, Format: (Linear) Row major linear format }], Constants: [ { Name: w, Dimensions: [3,96,96], Strides: \
[9216,96,1], Datatype: Half, Format: (Linear) Row }, { Name: alpha, Dimensions: [1], Strides: [1], Datatype: Float, \
Format: (Linear) Row }], Outputs: [ { Name: out, Dimensions: [3,-1,96], Strides: [-1,96,1], Datatype: BFloat16, \
Format: (Linear) Row }], TacticName: stub, StreamId: 0, Metadata: [ONNX Layer: a/MatMul][ONNX Layer: b/MatMul]

I/O Tensors:
 Name: input_ids, IOMode: Input, DataType: Int64, Dimensions: [-1,-1], Location: Device, ProfileInfo: [ { MinShape: \
[1,1], OptShape: [2,4], MaxShape: [4,16], Format: x }, { MinShape: [1,1], OptShape: [2,1], MaxShape: [4,1], Format: x }]
 Name: logits, IOMode: Output, DataType: Float, Dimensions: [-1,1,150], Location: Device, ProfileInfo: [ { Format: x }]
"""


def test_the_log_of_a_build_lists_layers_and_ports() -> None:
    copy, product = layers_of_log(LOG)
    assert copy["type"] == "ShapeHostToDevice" and copy["onnx"] == [] and copy["constants"] == []
    assert copy["outputs"] == [{"name": "(Layer* 46) [Shuffle]_output", "dtype": "int64", "dims": [1]}]
    assert (product["name"], product["type"]) == ("b/MatMul+a/MatMul_myl1_2", "gemm")
    assert product["inputs"] == [{"name": "hidden", "dtype": "float16", "dims": [-1, 96]}]
    assert [(part["name"], part["dtype"]) for part in product["constants"]] == [("w", "float16"), ("alpha", "float32")]
    assert product["outputs"] == [{"name": "out", "dtype": "bfloat16", "dims": [3, -1, 96]}]
    assert product["onnx"] == ["a/MatMul", "b/MatMul"]
    ports = ports_of_log(LOG, ["prefill", "decode"])
    assert ports["inputs"] == [{"name": "input_ids", "dtype": "int64", "dims": [-1, -1]}]
    assert ports["outputs"] == [{"name": "logits", "dtype": "float32", "dims": [-1, 1, 150]}]
    assert [profile["shapes"] for profile in ports["profiles"]] == [
        {"input_ids": {"min": [1, 1], "opt": [2, 4], "max": [4, 16]}},
        {"input_ids": {"min": [1, 1], "opt": [2, 1], "max": [4, 1]}},
    ]


def inspected(version: int) -> str:
    def tensor(name: str, dims: list[int], dtype: str, layout: str) -> dict[str, object]:
        types = (
            {"Format/Datatype": f"{layout} {dtype} format"} if version == 10 else {"Datatype": dtype, "Format": layout}
        )
        return {"Name": name, "Location": "Device", "Dimensions": dims, **types}

    product = {
        "Name": "a/MatMul + a/Add",
        "LayerType": "gemm",
        "Inputs": [tensor("hidden", [2, 96], "FP16" if version == 10 else "Half", "Row major linear")],
        "Outputs": [tensor("out", [2, 64], "FP16" if version == 10 else "Half", "Row major linear")],
        "Constants": [tensor("w", [96, 64], "FP16" if version == 10 else "Half", "Row major linear")],
        "TacticName": "sm90_xmma_gemm",
        "Metadata": "[ONNX Layer: a/MatMul]\u001f[ONNX Layer: a/Add]",
    }
    convolution = {
        "Name": "patches/Conv",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor("pixels", [2, 3, 28, 28], "FP32" if version == 10 else "Float", "Channel major")],
        "Outputs": [],
        "Weights": {"Type": "Half", "Count": 9408},
        "Metadata": "[ONNX Layer: patches/Conv]",
    }
    bound = {"Bindings": ["hidden"]} if version == 10 else {"I/O Tensors": [{"Name": "hidden", "IOMode": "Input"}]}
    return json.dumps({"Layers": [product, convolution, "a layer of a name alone"], **bound})


@pytest.mark.parametrize("version", [10, 11])
def test_both_forms_of_the_inspectors_json_say_the_same(version: int) -> None:
    product, convolution, named = layers_of_inspector(inspected(version))
    assert product == {
        "name": "a/MatMul + a/Add",
        "type": "gemm",
        "inputs": [{"name": "hidden", "dtype": "float16", "dims": [2, 96]}],
        "constants": [{"name": "w", "dtype": "float16", "dims": [96, 64]}],
        "outputs": [{"name": "out", "dtype": "float16", "dims": [2, 64]}],
        "onnx": ["a/MatMul", "a/Add"],
    }
    assert convolution["constants"] == [{"name": "weights", "dtype": "float16", "dims": [9408]}]
    assert convolution["inputs"][0]["dtype"] == "float32"
    assert named["name"] == "a layer of a name alone" and named["inputs"] == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("DataType.HALF", "float16"),
        ("BF16", "bfloat16"),
        ("Row major linear INT8 format (kLINEAR)", "int8"),
        ("FP8", "float8e4m3fn"),
        ("N/A due to dynamic shapes", "unknown"),
    ],
)
def test_types_have_one_name(text: str, name: str) -> None:
    assert dtype_name(text) == name


def test_names_of_later_profiles_are_told_apart() -> None:
    assert of_profile("past_key_values.0.key [profile 1]") == ("past_key_values.0.key", 1)
    assert of_profile("memory [profile 12]_U87_myl3_15") == ("memory", 12)
    assert of_profile("past_key_values.0.key") == ("past_key_values.0.key", 0)
