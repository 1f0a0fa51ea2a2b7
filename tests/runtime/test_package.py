"""An app finds the installed library with CMake, links it, and gives the Python pipeline's answer over a fake TensorRT.
The engine part compiles with the real headers of every TensorRT that is found."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memvp_export.exporter.errors import ToolError
from memvp_export.exporter.settings import Settings
from memvp_export.plugins.headers import find_headers
from memvp_export.plugins.loader import cache_folder
from PIL import Image

from .. import tensorrt_cpu
from . import closed_form, engine_bundle, test_engines
from .conftest import HERE, RUNTIME, Compiler

EXAMPLE = RUNTIME / "example"


def run(*words: object, **more: Any) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def cmake() -> str:
    """CMake, where it and what it builds with are here."""
    program = shutil.which("cmake")
    if not program:
        pytest.skip("no cmake")
    if not (shutil.which("nvcc") or Path("/usr/local/cuda/include").is_dir()):
        pytest.skip("no CUDA toolkit, whose package CMake looks for")
    return program


def configured(cmake: str, source: Path, build: Path, *options: object) -> None:
    """Configure without warnings, and build."""
    ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
    kept, sources = cache_folder() / "runtime-tests", f"{RUNTIME}:{HERE}"
    launcher = [sys.executable, HERE / "cached_compiler.py", kept, build, sources]
    launched = f"-DCMAKE_CXX_COMPILER_LAUNCHER={';'.join(map(str, launcher))}"
    whole = ["-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=0"]
    given = ["-DCMAKE_CXX_FLAGS=-Werror -O0", "-Werror=dev", *whole, launched, *options]
    run(cmake, "-S", source, "-B", build, *ninja, *given)
    run(cmake, "--build", build, "-j", "2")


@pytest.fixture(scope="session")
def app(cmake: str, compiler: Compiler, host_part: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built as an app builds it, over the fake TensorRT and CUDA."""
    folder, fakes = tmp_path_factory.mktemp("package"), HERE / "fakes"
    objects = [*compiler.objects(sorted(fakes.glob("*.cpp")), ["-I", str(fakes)]), host_part]
    library = compiler.link(folder / "libnvinfer.so", objects, ["-shared"])
    fake = [f"-DTensorRT_INCLUDE_DIR={fakes}", f"-DTensorRT_LIBRARY={library}"]
    configured(cmake, RUNTIME, folder / "library", *fake)
    run(cmake, "--install", folder / "library", "--prefix", folder / "installed")
    configured(cmake, EXAMPLE, folder / "app", f"-DCMAKE_PREFIX_PATH={folder / 'installed'}", *fake)
    return folder / "app" / "answer"


def test_the_example_answers(app: Path, tmp_path: Path) -> None:
    entry = closed_form.entry("delta")
    root = engine_bundle.make(tmp_path / "b", entry)
    picture = np.random.default_rng(3).integers(0, 256, (9, 14, 3), np.uint8)
    test_engines.PICTURES["shown"] = picture
    Image.fromarray(picture).save(tmp_path / "a.ppm")
    asked = [{"ids": [5, 3, 9], "image": "shown"}]
    [expected] = test_engines.answers_of_python(entry, asked, Settings(max_new_tokens=9))
    found = run(app, root, tmp_path / "a.ppm", 5, 3, 9)
    assert [int(line) for line in found.split()] == expected and expected
    for words, message in (
        ([tmp_path / "none", "picture.ppm", "1"], f"{tmp_path}/none does not exist."),
        ([], "give a bundle, a picture and the ids of a prompt."),
    ):
        done = subprocess.run([app, *words], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, f"error: {message}\n")


def test_an_app_is_short() -> None:
    text = (EXAMPLE / "answer.cpp").read_text()
    body = text[text.index("int main") :].splitlines()
    assert len([line for line in body if line.strip() not in ("", "{", "}", "try")]) <= 20


def test_public_headers_need_neither_cuda_nor_tensorrt(compiler: Compiler, tmp_path: Path) -> None:
    headers = sorted((RUNTIME / "include/memvp").glob("*.h"))
    assert len(headers) >= 6
    for header in headers:
        source = tmp_path / f"{header.stem}.cpp"
        # Each by itself.
        source.write_text(f'#include "memvp/{header.name}"\n')
        text = header.read_text()
        assert not any(word in text for word in ("NvInfer", "nvinfer1", "cudaStream", "cuda_runtime"))
    compiler.objects([tmp_path / f"{header.stem}.cpp" for header in headers])


def real_headers(version: str) -> list[str]:
    """Options for the headers of this TensorRT and of CUDA; skips where they are not found."""
    try:
        headers = find_headers(Path(f"~/.cache/tensorrt-headers/{version}"))
    except ToolError as error:
        pytest.skip(f"no headers of TensorRT {version}: {str(error).splitlines()[0]}")
    nvcc = shutil.which("nvcc")
    places = [Path("/usr/local/cuda/include"), *([Path(nvcc).resolve().parents[1] / "include"] if nvcc else [])]
    cuda = next((folder for folder in places if (folder / "cuda_runtime_api.h").is_file()), None)
    if cuda is None:
        pytest.skip("no headers of the CUDA runtime")
    return ["-isystem", str(headers.folder), "-isystem", str(cuda)]


@pytest.mark.parametrize(
    "version",
    ["10.0.0", *(pytest.param(newer, marks=pytest.mark.slow) for newer in ("10.3.0", "10.16", "11.0", "11.1"))],
)
def test_it_compiles_with_the_real_headers(compiler: Compiler, version: str) -> None:
    assert compiler.part("engine", real_headers(version)).is_file()


@tensorrt_cpu.needs_tensorrt
def test_it_links_with_real_libraries_and_finds_no_gpu(compiler: Compiler, host_part: Path, tmp_path: Path) -> None:
    environment = tensorrt_cpu.environment()
    assert environment is not None
    folder = Path(environment["LD_LIBRARY_PATH"])
    objects = [compiler.part("engine", real_headers("10.0.0")), host_part, *compiler.objects([EXAMPLE / "answer.cpp"])]
    libraries = [str(folder / name) for name in ("libnvinfer.so.11", "libcudart.so.13")]
    program = compiler.link(tmp_path / "answer", objects, [*libraries, "-ldl", "-pthread"])
    root = engine_bundle.make(tmp_path / "b", closed_form.entry("delta"))
    nothing_seen = environment | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([program, root, "none.ppm", "5"], capture_output=True, text=True, env=nothing_seen)
    assert done.returncode == 1 and done.stderr.startswith(
        "error: engines/tensorrt-10.13.3.9-sm90/vision.fp32.0.engine"
    )
    assert "- no GPU can be used here: " in done.stderr and "there is none here that can be loaded" in done.stderr
