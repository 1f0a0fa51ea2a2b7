"""The compiler is found where CUDA is installed in any of its ways, and asked what it compiles for."""

from pathlib import Path

import pytest
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.plugins import nvcc as subject
from memvp_export.plugins.nvcc import Nvcc, choose_archs, find_nvcc

from .fake_nvcc import put_nvcc

ALL = ("75", "80", "86", "87", "88", "89", "90", "100", "103", "110", "120", "121")


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_TOOLKIT", Path("/nowhere"))
    monkeypatch.setattr(subject, "pip_places", list)
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)


def test_path_comes_before_cuda_home_before_the_toolkit_before_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = put_nvcc(tmp_path / "nvidia" / "cu13" / "bin")
    monkeypatch.setattr(subject, "pip_places", lambda: [str(pip.parent)])
    assert find_nvcc() == Nvcc(pip, "12.8", ("80", "90", "120"))
    toolkit = put_nvcc(tmp_path / "cuda" / "bin")
    monkeypatch.setattr(subject, "_TOOLKIT", tmp_path / "cuda")
    assert find_nvcc().path == toolkit
    home = put_nvcc(tmp_path / "home" / "bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert find_nvcc().path == home
    first = put_nvcc(tmp_path / "first")
    monkeypatch.setenv("PATH", f"{first.parent}:/bin:/usr/bin")
    assert find_nvcc().path == first
    assert find_nvcc(str(pip)).path == pip


def test_without_a_compiler_the_way_to_get_one_is_told() -> None:
    with pytest.raises(EnvironmentLack, match="pip install nvidia-cuda-nvcc nvidia-cuda-cccl"):
        find_nvcc()


def test_a_named_compiler_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a program"):
        find_nvcc(str(tmp_path / "none"))
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho something else\n")
    other.chmod(0o755)
    with pytest.raises(EnvironmentLack, match="does not answer as CUDA's nvcc does"):
        find_nvcc(str(other))


def test_gpus_are_what_the_project_names_and_the_compiler_knows() -> None:
    assert choose_archs(Nvcc(Path("nvcc"), "13.0", ALL)) == list(subject.ARCHS)
    assert choose_archs(Nvcc(Path("nvcc"), "11.4", ("70", "75", "80", "86", "87"))) == ["75", "80", "86", "87"]
    assert choose_archs(Nvcc(Path("nvcc"), "13.0", ALL), ["120", "90", "90"]) == ["90", "120"]


def test_gpus_that_the_compiler_does_not_know_are_refused() -> None:
    nvcc = Nvcc(Path("/cuda/bin/nvcc"), "13.0", ALL)
    with pytest.raises(
        EnvironmentLack, match=r"nvcc 13\.0 \(/cuda/bin/nvcc\) does not compile for 70; it does for 75 "
    ):
        choose_archs(nvcc, ["70", "90"])
    for wrong in ("9.0", "sm_90"):
        with pytest.raises(InputError, match=f"--arch {wrong} is not a compute capability"):
            choose_archs(nvcc, [wrong])
    with pytest.raises(EnvironmentLack, match=r"none of 75 80 .*--arch"):
        choose_archs(Nvcc(Path("nvcc"), "14.0", ("130",)))
