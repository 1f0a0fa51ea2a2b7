"""The plugin's contract names what the rest of the project means by the operator."""

from pathlib import Path

import onnx
import yaml
from memvp_export.exporter.graphs.operators import DOMAIN, VERSION, VISUAL_MEMORY, own_schemas
from memvp_export.plugins import reference

CONTRACT = yaml.safe_load((Path(__file__).parents[3] / "plugins" / "visual_memory_ffn.yaml").read_text())


def test_the_contract_has_the_inputs_and_attributes_of_the_published_operator() -> None:
    with own_schemas():
        schema = onnx.defs.get_schema(VISUAL_MEMORY, VERSION, DOMAIN)
    assert (CONTRACT["operator"], CONTRACT["domain"]) == (schema.name, schema.domain)
    assert [port["name"] for port in CONTRACT["inputs"]] == [port.name for port in schema.inputs]
    assert [port["name"] for port in CONTRACT["outputs"]] == [port.name for port in schema.outputs]
    kinds = {onnx.defs.OpSchema.AttrType.FLOAT: "float32", onnx.defs.OpSchema.AttrType.STRING: "string"}
    published = {name: kinds[attribute.type] for name, attribute in schema.attributes.items()}
    assert {one["name"]: one["type"] for one in CONTRACT["attributes"]} == published


def test_the_contract_has_the_activations_of_the_reference() -> None:
    (activation,) = [one for one in CONTRACT["attributes"] if one["name"] == "activation"]
    assert set(activation["values"]) == set(reference.ACTIVATIONS)
