"""The plugin library, compiled for one GPU where CUDA's compiler and TensorRT's headers are found."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def plugin_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library built with the headers that `plugin build` would take; compiled parts stay in the user's cache."""
    from memvp_export.exporter.errors import EnvironmentLack
    from memvp_export.plugins.build import build_plugin, plan_build

    output = tmp_path_factory.mktemp("plugin") / "libmemvp_plugins.so"
    try:
        plan_build(output, archs=["90"])
    except EnvironmentLack as lack:
        pytest.skip(f"the plugin cannot be compiled here: {str(lack).splitlines()[0]}")
    return build_plugin(output, archs=["90"]).path
