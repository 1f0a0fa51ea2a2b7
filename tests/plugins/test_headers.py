"""TensorRT's headers are found where they are, and their absence is explained."""

from pathlib import Path

import pytest
from memvp_export.exporter.errors import EnvironmentLack, InputError
from memvp_export.plugins import headers as subject
from memvp_export.plugins.headers import find_headers

OLD_STYLE = "#define NV_TENSORRT_MAJOR {} //!< major\n#define NV_TENSORRT_MINOR {}\n#define NV_TENSORRT_PATCH {}\n"
NEW_STYLE = (
    "#define TRT_MAJOR_ENTERPRISE {}\n#define TRT_MINOR_ENTERPRISE {}\n#define TRT_PATCH_ENTERPRISE {}\n"
    "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n#define NV_TENSORRT_MINOR TRT_MINOR_ENTERPRISE\n"
    "#define NV_TENSORRT_PATCH TRT_PATCH_ENTERPRISE\n"
)


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subject, "_SYSTEM", tmp_path / "system")
    monkeypatch.setattr(subject, "_CACHE", tmp_path / "cache")
    monkeypatch.delenv("TENSORRT_ROOT", raising=False)


def put(folder: Path, version: str, style: str = OLD_STYLE) -> Path:
    folder.mkdir(parents=True)
    (folder / "NvInfer.h").touch()
    (folder / "NvInferVersion.h").write_text(style.format(*version.split(".")))
    return folder


@pytest.mark.parametrize(("version", "style"), [("8.5.3", OLD_STYLE), ("10.0.1", OLD_STYLE), ("11.1.0", NEW_STYLE)])
def test_the_version_is_read_from_the_headers(tmp_path: Path, version: str, style: str) -> None:
    folder = put(tmp_path / "include", version, style)
    assert find_headers(folder) == subject.Headers(folder, version)


def test_an_installation_is_as_good_as_its_include_folder(tmp_path: Path) -> None:
    put(tmp_path / "root" / "include", "10.3.0")
    assert find_headers(tmp_path / "root").folder == tmp_path / "root" / "include"


def test_what_is_named_comes_before_what_is_installed_and_that_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "cache" / "any", "10.0.0")
    assert find_headers().version == "10.0.0"
    put(tmp_path / "system", "10.3.0")
    assert find_headers().version == "10.3.0"
    monkeypatch.setenv("TENSORRT_ROOT", str(put(tmp_path / "root", "11.0.0")))
    assert find_headers().version == "11.0.0"
    assert find_headers(put(tmp_path / "given", "8.6.1")).version == "8.6.1"


def test_of_the_cache_the_version_that_serves_most_is_taken(tmp_path: Path) -> None:
    put(tmp_path / "cache" / "a", "8.6.1")
    assert find_headers().version == "8.6.1"
    put(tmp_path / "cache" / "b", "11.1.0", NEW_STYLE)
    assert find_headers().version == "11.1.0"
    put(tmp_path / "cache" / "c" / "include", "10.16.0", NEW_STYLE)
    put(tmp_path / "cache" / "d", "10.3.0")
    assert find_headers().version == "10.3.0"


def test_without_headers_the_way_to_get_them_is_told() -> None:
    with pytest.raises(EnvironmentLack, match=r"git clone .*--branch v10\.0\.0 .*github\.com/NVIDIA/TensorRT"):
        find_headers()


def test_a_named_folder_without_headers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "system", "10.3.0")
    with pytest.raises(InputError, match=r"--headers is .*there is no NvInfer\.h"):
        find_headers(tmp_path)
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / "none"))
    with pytest.raises(InputError, match="TENSORRT_ROOT is"):
        find_headers()


def test_headers_before_the_plugin_interfaces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"TensorRT 8\.4\.3; the plugin needs 8\.5"):
        find_headers(put(tmp_path / "old", "8.4.3"))
