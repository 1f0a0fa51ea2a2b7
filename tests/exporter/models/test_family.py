"""Families by name, and components made again from a manifest's config."""

import json
from importlib import import_module

import pytest
from memvp_export.exporter.checkpoints.options import FAMILIES
from memvp_export.exporter.commands.source_options import FILES
from memvp_export.exporter.errors import InputError
from memvp_export.exporter.models.family import Model, components_of
from memvp_export.exporter.pipelines import _PIPELINES


def test_a_manifest_is_enough_for_the_components(model: Model) -> None:
    config = json.loads(json.dumps(model.config.to_dict()))
    for ours, theirs in zip(components_of(model.family, config), model.components, strict=True):
        assert (ours.name, ours.inputs, ours.outputs, ours.ranges) == (
            theirs.name,
            theirs.inputs,
            theirs.outputs,
            theirs.ranges,
        )
        assert ours.weights == theirs.weights and ours.constants.keys() == theirs.constants.keys()


def test_a_row_for_each_family_is_all_that_names_it() -> None:
    for family in FAMILIES:
        name = f"memvp_export.exporter.models.{family.replace('-', '_')}"
        model, files = import_module(name), import_module(f"{name}_files")
        assert callable(model.Config.from_dict) and callable(model.components) and callable(files.load), family
        assert {*FAMILIES[family].files, *FAMILIES[family].optional} <= {*FILES}
    # Of the others an image is the answer.
    assert {*FAMILIES} - {*_PIPELINES} == {"apt-stable-diffusion"} and {*_PIPELINES} <= {*FAMILIES}


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(InputError, match="'memvp-opt' cannot be exported by this version; it knows memvp-llama"):
        components_of("memvp-opt", {})


@pytest.mark.parametrize("change", [{"tower": {}}, {"unknown": 1}])
def test_a_config_that_does_not_fit_is_refused(model: Model, change: dict) -> None:
    with pytest.raises(InputError, match="config does not fit family memvp-llama"):
        components_of(model.family, {**model.config.to_dict(), **change})
