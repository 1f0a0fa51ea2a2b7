"""Building the plugin library, with a program in the compiler's place; tests/plugins/tensorrt builds the real one."""

import os
import shutil
from pathlib import Path

import pytest
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.exporter.progress import Progress
from memvp_export.plugins import build as subject
from memvp_export.plugins.build import build_id, build_plugin, plan_build, sources
from memvp_export.plugins.loader import PluginInfo, built_library

from .fake_library import SAID, put_library
from .fake_nvcc import commands, put_nvcc

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
pytestmark = needs_compiler


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    return put_headers(tmp_path / "headers", "10, 0, 0")


@pytest.fixture(autouse=True)
def own_tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the sources that tests may change, and a cache of its own."""
    tree = tmp_path / "tree"
    for folder in ("kernels", "tensorrt"):
        shutil.copytree(subject._ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(subject, "_ROOT", tree)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tree


def put_headers(folder: Path, version: str) -> Path:
    folder.mkdir()
    (folder / "NvInfer.h").touch()
    names = ("MAJOR", "MINOR", "PATCH")
    lines = [f"#define NV_TENSORRT_{name} {part}\n" for name, part in zip(names, version.split(", "), strict=True)]
    (folder / "NvInferVersion.h").write_text("".join(lines))
    return folder


def compiled(program: Path) -> list[str]:
    """The sources that were compiled since the last call."""
    return [Path(words[words.index("-c") + 1]).name for words in commands(program) if "-c" in words]


def build(
    nvcc: Path, headers: Path, output: Path, archs: tuple[str, ...] = ("90",), progress: Progress | None = None
) -> PluginInfo:
    return build_plugin(output, headers=headers, archs=archs, nvcc=str(nvcc), progress=progress)


def test_every_source_is_compiled_once_and_the_second_build_only_links(tmp_path: Path, headers: Path) -> None:
    nvcc, output = put_nvcc(tmp_path / "bin", put_library(tmp_path / "lib.so")), tmp_path / "new" / "out.so"
    progress = Progress()
    info = build(nvcc, headers, output, progress=progress)
    names = [source.name for source in sources()]
    assert "contract.cpp" in names and "dispatch.cu" in names
    assert info.path == output and info.build_id == SAID["build_id"]
    assert [stage.name for stage in progress.stages] == [*(f"compile {name}" for name in names), "link"]
    assert compiled(nvcc) == names
    build(nvcc, headers, output)
    (link,) = commands(nvcc)
    assert "-shared" in link and sum(word.endswith(".o") for word in link) == len(names)
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.so"]


def test_only_what_changed_is_compiled_again(tmp_path: Path, headers: Path, own_tree: Path) -> None:
    nvcc, output = put_nvcc(tmp_path / "bin", put_library(tmp_path / "lib.so")), tmp_path / "out.so"
    build(nvcc, headers, output)
    compiled(nvcc)
    kernels = [source.name for source in sources() if source.suffix == ".cu"]
    build(nvcc, headers, output, archs=("80", "90"))
    assert compiled(nvcc) == [*kernels, "info.cpp"]
    with (own_tree / "tensorrt" / "report.cpp").open("a") as file:
        file.write("// changed\n")
    build(nvcc, headers, output)
    # info.cpp carries the digest of all sources.
    assert compiled(nvcc) == ["info.cpp", "report.cpp"]
    with (own_tree / "kernels" / "memvp_kernels.h").open("a") as file:
        file.write("// changed\n")
    build(nvcc, headers, output)
    assert compiled(nvcc) == [source.name for source in sources()]
    build(nvcc, put_headers(tmp_path / "newer", "11, 0, 0"), output)
    assert set(compiled(nvcc)) == {source.name for source in sources() if source.suffix == ".cpp"}


def test_code_is_made_for_the_gpus_asked_for_and_ptx_for_the_newest(tmp_path: Path, headers: Path) -> None:
    nvcc = put_nvcc(tmp_path / "bin", put_library(tmp_path / "lib.so"))
    build(nvcc, headers, tmp_path / "out.so", archs=("120", "80"))
    codes = ["arch=compute_80,code=sm_80", "arch=compute_120,code=sm_120", "arch=compute_120,code=compute_120"]
    given = {Path(words[words.index("-c") + 1]).name: words for words in commands(nvcc) if "-c" in words}
    assert [word for word in given["dispatch.cu"] if word.startswith("arch=")] == codes
    assert not [word for word in given["contract.cpp"] if word.startswith("arch=")]
    assert {"-DMEMVP_PTX=\"120\"", "120\""} <= set(given["info.cpp"])  # fmt: skip
    assert ["-isystem", str(headers)] == given["contract.cpp"][-2:] and str(headers) not in given["dispatch.cu"]


def test_a_failed_compilation_shows_the_first_errors_and_leaves_the_library_as_it_was(
    tmp_path: Path, headers: Path
) -> None:
    output = tmp_path / "lib" / "out.so"
    build(put_nvcc(tmp_path / "good", put_library(tmp_path / "lib.so")), headers, output)
    before = output.read_bytes()
    fail = "echo 'a.cu(3): warning: odd' >&2; echo 'a.cu(7): error: no such thing' >&2; exit 2"
    bad = put_nvcc(tmp_path / "bad", extra=fail)
    with pytest.raises(EnvironmentLack) as raised:
        build(bad, headers, output, archs=("80",))
    message = str(raised.value)
    assert "a.cu(7): error: no such thing" in message and "odd" not in message
    assert f"The command was:  {bad} -c " in message
    assert output.read_bytes() == before
    assert [path.name for path in output.parent.iterdir()] == ["out.so"]
    with pytest.raises(EnvironmentLack):
        build(bad, headers, output, archs=("80",))


def test_what_a_killed_build_left_is_removed(tmp_path: Path, headers: Path) -> None:
    output = tmp_path / "lib" / "out.so"
    left = output.parent / ".out.so.partial-00000000"
    left.mkdir(parents=True)
    (left / "decode.o").touch()
    build(put_nvcc(tmp_path / "bin", put_library(tmp_path / "lib.so")), headers, output)
    assert [path.name for path in output.parent.iterdir()] == ["out.so"]


def test_the_compiler_leaves_nothing_outside_the_build(tmp_path: Path, headers: Path) -> None:
    say = f'echo "$TMPDIR" >> {tmp_path / "temporary"}'
    nvcc = put_nvcc(tmp_path / "bin", put_library(tmp_path / "lib.so"), extra=say)
    build(nvcc, headers, tmp_path / "lib" / "out.so")
    (folder,) = set((tmp_path / "temporary").read_text().splitlines())
    assert Path(folder).parent == tmp_path / "lib" and not Path(folder).exists()


def test_a_plan_names_all_without_writing(tmp_path: Path, headers: Path) -> None:
    nvcc = put_nvcc(tmp_path / "bin")
    plan = plan_build(headers=headers, nvcc=str(nvcc))
    assert (plan.output, plan.archs, plan.headers.version) == (built_library(), ("80", "90", "120"), "10.0.0")
    assert plan.build_id == build_id("10.0.0")
    assert not commands(nvcc) and not (tmp_path / "cache").exists()


def test_the_build_id_is_that_of_sources_and_headers_and_not_of_gpus(own_tree: Path) -> None:
    first = build_id("10.0.0")
    assert len(first) == 16 and first == build_id("10.0.0") != build_id("10.3.0")
    for name in ("kernels/decode.cuh", "kernels/dispatch.cu", "tensorrt/contract.h", "tensorrt/exports.map"):
        with (own_tree / name).open("a") as file:
            file.write("\n")
        assert build_id("10.0.0") != first
        first = build_id("10.0.0")


def test_places_that_cannot_hold_the_library_are_refused(tmp_path: Path, headers: Path) -> None:
    nvcc = put_nvcc(tmp_path / "bin")
    with pytest.raises(InputError, match="is a folder; name a file"):
        build(nvcc, headers, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentLack, match="cannot be written"):
        build(nvcc, headers, tmp_path / "file" / "out.so")
    with pytest.raises(EnvironmentLack, match="file is a file"):
        plan_build(tmp_path / "file" / "out.so", headers, ["80"], str(nvcc))


def test_a_file_that_is_no_library_is_not_overwritten(tmp_path: Path, headers: Path) -> None:
    nvcc, picture = put_nvcc(tmp_path / "bin", put_library(tmp_path / "lib.so")), tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG")
    for call in (plan_build, build_plugin):
        with pytest.raises(InputError, match="is no library, and would be destroyed"):
            call(picture, headers=headers, archs=["80"], nvcc=str(nvcc))
    assert picture.read_bytes() == b"\x89PNG" and not commands(nvcc)
    for content in (b"", (tmp_path / "lib.so").read_bytes()[:100]):
        picture.write_bytes(content)
        assert plan_build(picture, headers, ["80"], str(nvcc)).output == picture


def test_a_missing_host_compiler_is_named(tmp_path: Path, headers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = put_nvcc(tmp_path / "bin")
    monkeypatch.delenv("NVCC_CCBIN", raising=False)
    monkeypatch.setenv("PATH", os.fspath(nvcc.parent))
    with pytest.raises(EnvironmentLack, match=r"no g\+\+ on PATH"):
        plan_build(headers=headers, nvcc=str(nvcc))
