import memvp_export
import pytest


def test_what_the_commands_do_is_there_as_functions() -> None:
    for name in ("export_onnx", "calibrate", "build_engines", "check", "run", "bench", "inspect_path"):
        assert getattr(memvp_export, name).__name__ == name
    assert {"Bundle", "Session"} <= {*memvp_export.__all__}
    for name in memvp_export.__all__:
        assert callable(getattr(memvp_export, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        memvp_export.nothing  # noqa: B018
