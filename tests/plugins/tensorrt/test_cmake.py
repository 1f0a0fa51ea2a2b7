"""CMake configures the same library that `plugin build` makes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from memvp_export.exporter.errors import ToolError
from memvp_export.plugins.build import plan_build

PLUGINS = Path(__file__).parents[3] / "plugins"


def test_cmake_takes_the_same_sources_headers_and_gpus(tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if not cmake:
        pytest.skip("no cmake")
    try:
        plan = plan_build(tmp_path / "lib.so", archs=["80", "90"])
    except ToolError as error:
        pytest.skip(f"the plugin cannot be compiled here: {str(error).splitlines()[0]}")
    given = [f"-DTensorRT_ROOT={plan.headers.folder}", f"-DCMAKE_CUDA_COMPILER={plan.nvcc.path}"]
    words = [cmake, "-S", PLUGINS, "-B", tmp_path / "build", *given, "-DCMAKE_CUDA_ARCHITECTURES=80;90"]
    configured = subprocess.run(words, capture_output=True, text=True)
    assert configured.returncode == 0, configured.stderr
    said = re.search(r"TensorRT (\S+), build (\w+), compute capabilities (.*)", configured.stdout)
    assert said and said.groups() == (plan.headers.version, plan.build_id, "80 90")
