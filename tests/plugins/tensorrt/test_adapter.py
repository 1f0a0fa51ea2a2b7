"""The adapter of each interface of TensorRT, called as TensorRT calls it by a small C++ program (adapter_probe.cpp)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from memvp_export.exporter.errors import ToolError
from memvp_export.plugins.build import build_id, build_plugin
from memvp_export.plugins.headers import Headers, find_headers
from memvp_export.plugins.loader import library_info
from memvp_export.plugins.nvcc import Nvcc, find_nvcc

HERE = Path(__file__).parent
ADAPTERS = HERE.parents[2] / "plugins" / "tensorrt"
# One of each interface; the last is what the library is built with in the field.
VERSIONS = ["8.6.1", "10.0.0"]
ALL_VERSIONS = ["8.5.3", "8.6.1", "10.0.0", "10.3.0", "10.16", "11.0", "11.1"]
# The C functions of the kernels and the library's own.
EXPORTS = {"memvp_plugin_info", "memvpStatusString", "memvpLastCudaError"}
EXPORTS |= {"memvpVisualMemoryFfn", "memvpVisualMemoryFfnWorkspace"}
ACCEPTED = [
    *("a string without its closing NUL", "float32", "float16", "shapes", "one visual batch", "output format"),
    *("profile", "call without tokens", "reloaded", "query without tokens", "query after a refused one"),
]
# Where no GPU is to be seen, a call that the adapter takes goes as far as CUDA.
LAUNCHED = [
    *("call before the query", "call that the workspace holds", "reloaded call that the workspace holds"),
    "call of the larger profile",
]
REFUSED = {
    "no scale": "the attribute 'scale' (float32) is missing",
    "an infinite scale": "the attribute 'scale' is inf",
    "four inputs": "it takes 5 inputs, not 4",
    "hidden of rank 2": "hidden is [?,24], it takes 3 dimensions",
    "ffn of other width": "widths differ: hidden is [?,?,24], ffn is [?,?,23]",
    "ffn of other tokens": "tokens differ: hidden is [2,3,24], ffn is [2,4,24]",
    "too many rows": "the visual memory has 8 rows, the position tables only 7",
    "rows that vary": "the rows of visual are not fixed: visual is [?,?,24]",
    "other visual batch": "batches (visual may also have 1) differ: hidden is [2,3,24], visual is [4,5,24]",
    "tables of two lengths": "rows differ: key_positions is [7,24], value_positions is [6,24]",
    "profile of other visual batch": "batches (visual may also have 1) differ: hidden is [8,64,24], visual is [4,5,24]",
    "call with other visual batch": "batches (visual may also have 1) differ: hidden is [2,3,24], visual is [4,5,24]",
    "another schema": "the engine holds a plugin of schema 99, this library is of schema 1",
    "query for other visual batch": "batches (visual may also have 1) differ: hidden is [2,3,24], visual is [4,5,24]",
    "query for too many tokens": "the kernels know no call of 1048576 x 1048576 tokens of width 24 with 7 rows",
}


def tools(version: str) -> tuple[Headers, Nvcc]:
    """Headers of this version and a compiler; skips where one is missing."""
    try:
        return find_headers(Path(f"~/.cache/tensorrt-headers/{version}")), find_nvcc()
    except ToolError as error:
        pytest.skip(f"the plugin cannot be compiled for TensorRT {version}: {str(error).splitlines()[0]}")


@pytest.fixture(scope="module", params=VERSIONS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library built with the headers of one version; what the probe found lies beside it in `probed.txt`."""
    headers, nvcc = tools(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    built = build_plugin(folder / "libmemvp_plugins.so", headers=headers.folder, archs=["90"]).path
    probe = folder / "probe"
    source, system = HERE / "adapter_probe.cpp", ["-isystem", headers.folder]
    strict = ["-std=c++17", "-Xcompiler", "-Wall,-Wextra,-Werror"]
    subprocess.run([nvcc.path, *strict, source, "-I", ADAPTERS, *system, "-o", probe, "-ldl"], check=True)
    done = subprocess.run([probe, built], capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    (folder / "probed.txt").write_text(done.stdout)
    return built


@pytest.fixture
def probed(library: Path) -> dict[str, str]:
    """What the probe was told, by the name of what it tried."""
    lines = library.with_name("probed.txt").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def test_one_creator_offers_the_operator_and_its_attributes(probed: dict[str, str]) -> None:
    assert probed["creators"] == "1"
    assert probed["creator"] == "VisualMemoryFFN 1 scale activation"


@pytest.mark.parametrize("tried", ACCEPTED)
def test_what_the_contract_allows_is_accepted(probed: dict[str, str], tried: str) -> None:
    assert probed[tried] == "accepted"


@pytest.mark.parametrize("tried", REFUSED)
def test_what_the_contract_forbids_is_refused_and_logged(probed: dict[str, str], library: Path, tried: str) -> None:
    build = library_info(library).build_id
    assert probed[tried].startswith(f"refused: VisualMemoryFFN (memvp plugin, build {build}): {REFUSED[tried]}")


def test_types_are_the_contracts_where_this_tensorrt_has_them(probed: dict[str, str], library: Path) -> None:
    newer = not library_info(library).headers_version.startswith("8.")
    assert ("bfloat16" in probed) == newer
    assert probed.get("bfloat16", "accepted") == "accepted"
    for tried in ("int8", "two types", "another format", "output of another type"):
        assert probed[tried].startswith("refused")
    if newer:
        assert "int8; supported: float32, float16, bfloat16" in probed["int8"]
        assert "hidden is float16, visual is float32" in probed["two types"]


def test_an_engine_keeps_attributes_schema_and_build(probed: dict[str, str], library: Path) -> None:
    assert probed["state"] == "-0.250000 quick_gelu"
    assert probed["name"] == "VisualMemoryFFN"
    assert f"of build 0ld, this library is of build {library_info(library).build_id}" in probed["another build"]
    assert "it is damaged" in probed.get("bytes cut short", "it is damaged")


def test_the_kernels_are_asked_for_workspace_and_their_refusal_is_passed_on(probed: dict[str, str]) -> None:
    assert probed["workspace"] == "grows"
    assert "a tensor or the workspace is null" in probed["null pointers"]


@pytest.mark.parametrize("tried", LAUNCHED)
def test_a_call_that_fails_in_cuda_says_why(probed: dict[str, str], tried: str) -> None:
    _, why = probed[tried].split("a kernel could not be launched: ")
    assert why and why != "no error"


def test_a_call_is_held_to_the_workspace_that_tensorrt_was_told_of(probed: dict[str, str]) -> None:
    assert probed["kept workspace"] == "as told"
    told = r"the call takes \d{3,} bytes of workspace, TensorRT was told of"
    for tried in ("call beyond the workspace", "reloaded call beyond the workspace"):
        assert re.search(rf"{told} \d{{3,}}$", probed[tried])
    # A refused query was answered with 0, and no later one tells which workspace a call has.
    for tried in ("call after a refused query", "call after a refused query and another"):
        assert re.search(rf"{told} 0$", probed[tried])


def test_the_library_says_what_the_contract_says(library: Path) -> None:
    info = library_info(library)
    contract = yaml.safe_load((ADAPTERS.parent / "visual_memory_ffn.yaml").read_text())
    here = [int(part) for part in info.headers_version.split(".")]
    since = {name: [int(part) for part in version.split(".")] for name, version in contract["types"].items()}
    assert info.types == tuple(name for name in since if since[name] <= here)
    assert (info.operators, info.version) == ((contract["operator"],), contract["version"])
    assert (info.schema, info.archs, info.ptx) == (contract["schema"], ("90",), ("90",))
    assert info.build_id == build_id(info.headers_version)


@pytest.mark.slow
@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_adapter_compiles_without_warnings(version: str, tmp_path: Path) -> None:
    headers, nvcc = tools(version)
    strict = ["-std=c++17", "-O2", "-Xcompiler", "-Wall,-Wextra,-Wpedantic,-Werror,-fPIC", "-isystem", headers.folder]
    defined = ['-DMEMVP_BUILD_ID="b"', '-DMEMVP_ARCHS="90"', '-DMEMVP_PTX="90"']
    for source in sorted(ADAPTERS.glob("*.cpp")):
        subprocess.run([nvcc.path, *strict, *defined, "-c", source, "-o", tmp_path / "made.o"], check=True)


def test_only_the_interface_is_exported(library: Path) -> None:
    listed = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
    old = library_info(library).headers_version.startswith("8.")
    loads = {"getPluginCreators", "memvp_plugin_register"} if old else {"getCreators"}
    assert {line.split()[-1] for line in listed.stdout.splitlines()} == EXPORTS | {"setLoggerFinder"} | loads


@pytest.mark.parametrize("library", ["8.6.1"], indirect=True)
def test_in_python_a_library_of_tensorrt_8_registers_itself(library: Path, tmp_path: Path) -> None:
    """As its Python package does, the script opens TensorRT's library for itself alone."""
    headers, nvcc = tools("8.6.1")
    words = ["-shared", "-Xcompiler", "-fPIC,-Wno-deprecated-declarations", "-isystem", headers.folder]
    named = ["-Xlinker", "-soname,libnvinfer.so.8", "-o", tmp_path / "libnvinfer.so.8"]
    subprocess.run([nvcc.path, *words, HERE / "fake_registry.cpp", *named], check=True)
    code = (
        "import ctypes, sys\n"
        "from pathlib import Path\n"
        "from memvp_export.exporter.engines.tensorrt_module import _open_plugin\n"
        "held = ctypes.CDLL(sys.argv[1])\n"
        "held.creator.restype = ctypes.c_char_p\n"
        "print(held.creator())\n"
        "_open_plugin(Path(sys.argv[2]))\n"
        "_open_plugin(Path(sys.argv[2]))\n"
        "print(held.creator(), held.count())"
    )
    command = [sys.executable, "-c", code, tmp_path / "libnvinfer.so.8", library]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "b'VisualMemoryFFN'", "1"]


def test_the_library_needs_neither_tensorrt_nor_cuda_to_be_opened(library: Path) -> None:
    shown = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    assert "nvinfer" not in shown and "cudart" not in shown and "not found" not in shown
