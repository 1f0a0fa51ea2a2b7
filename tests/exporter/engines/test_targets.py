"""What the target table answers to requests."""

import pytest
from memvp_export.exporter.engines.targets import (
    TARGETS,
    Target,
    check_option,
    check_request,
    target_named,
)
from memvp_export.exporter.engines.tensorrt_module import target_of
from memvp_export.exporter.errors import InputError

TENSORRT, RTX, OLD = TARGETS["tensorrt"], TARGETS["tensorrt-rtx"], TARGETS["tensorrt-8"]


def test_a_target_is_known_by_its_name() -> None:
    assert all(target_named(name) is target and target.name == name for name, target in TARGETS.items())
    with pytest.raises(InputError, match="no target 'tensorrt-7'; choose tensorrt or tensorrt-rtx or tensorrt-8"):
        target_named("tensorrt-7")


def test_options() -> None:
    for option in ("workspace", "builder_effort", "timing_cache", "embed_plugin"):
        check_option(TENSORRT, option)
    with pytest.raises(InputError, match="tensorrt-rtx has no timing cache: its builder would ask for a GPU"):
        check_option(RTX, "timing_cache")
    with pytest.raises(InputError, match=r"tensorrt has no weight streaming\. It takes workspace, builder effort"):
        check_option(TENSORRT, "weight_streaming")


@pytest.mark.parametrize("target", [TENSORRT, RTX], ids=lambda target: target.name)
def test_requests(target: Target) -> None:
    assert {"fp32", "fp16", "bf16"} <= {*target.precisions}
    for precision in target.precisions:
        for cache in ("delta", "concat", "in_place"):
            check_request(target, precision, cache, 22)
    with pytest.raises(InputError, match=r"built in fp32, fp16, bf16.* here, not in fp5"):
        check_request(target, "fp5", "delta", 20)
    with pytest.raises(InputError, match="takes caches of kind delta or concat or in_place, not paged"):
        check_request(target, "fp16", "paged", 20)
    with pytest.raises(InputError, match="graphs up to opset 24, this one has 25"):
        check_request(target, "fp16", "delta", 25)


def test_tensorrt_8_takes_less_and_says_so() -> None:
    for precision in ("fp32", "fp16"):
        for cache in ("delta", "concat"):
            check_request(OLD, precision, cache, 23)
    with pytest.raises(InputError, match="tensorrt-8 engines are built in fp32, fp16 here, not in bf16"):
        check_request(OLD, "bf16", "delta", 22)
    with pytest.raises(InputError, match="tensorrt-8 takes caches of kind delta or concat, not in_place"):
        check_request(OLD, "fp16", "in_place", 20)
    for option in ("builder_effort", "embed_plugin"):
        with pytest.raises(InputError, match=r"TensorRT 8\.5 has none. It takes workspace, timing cache"):
            check_option(OLD, option)


@pytest.mark.parametrize(
    ("module", "version", "target"),
    [
        ("tensorrt", "8.5.3.1", "tensorrt-8"),
        ("tensorrt", "8.6.1", "tensorrt-8"),
        ("tensorrt", "8.4.3", None),
        ("tensorrt", "9.3.0", None),
        ("tensorrt", "10.3.0", "tensorrt"),
        ("tensorrt", "11.4.0.106", "tensorrt"),
        ("tensorrt_rtx", "1.4.0", "tensorrt-rtx"),
        ("tensorrt_rtx", "8.6.1", None),
    ],
)
def test_a_module_and_its_version_tell_the_target(module: str, version: str, target: str | None) -> None:
    assert target_of(module, version) == target
