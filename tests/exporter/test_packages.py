import sys

import pytest
from memvp_export.exporter.errors import EnvironmentLack, MissingPackage
from memvp_export.exporter.packages import needing, require_installed


def test_a_package_that_is_not_here_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingPackage, match=r"^diffusers is not .*memvp-export\[diffusion\]"), needing("diffusion"):
        import diffusers.schedulers  # noqa: F401
    with pytest.raises(MissingPackage, match=r"^no_such_package is not .*memvp-export\[export\]"), needing("export"):
        import no_such_package.part  # noqa: F401
    require_installed("numpy", extra="export")
    with pytest.raises(MissingPackage, match="no_such_package"):
        require_installed("numpy", "no_such_package", extra="export")


def test_a_package_that_does_not_load_is_not_called_missing() -> None:
    words = r"numpy is here but cannot be loaded \(cannot import name"
    with pytest.raises(EnvironmentLack, match=words) as lack, needing("export"):
        from numpy import no_such_name  # noqa: F401
    assert not isinstance(lack.value, MissingPackage)


def test_what_the_projects_own_modules_lack_is_a_bug() -> None:
    with pytest.raises(ImportError, match="no_such_name"), needing("export"):
        from memvp_export.exporter.bundle import no_such_name  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), needing("export"):
        import memvp_export.exporter.no_such_module  # noqa: F401
