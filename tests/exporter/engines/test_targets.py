"""What the target table answers to requests."""

import pytest
from memvp_export.exporter.engines.targets import (
    TARGETS,
    Target,
    check_option,
    check_request,
    target_named,
)
from memvp_export.exporter.errors import InputError

TENSORRT, RTX = TARGETS["tensorrt"], TARGETS["tensorrt-rtx"]


def test_a_target_is_known_by_its_name() -> None:
    assert all(target_named(name) is target and target.name == name for name, target in TARGETS.items())
    with pytest.raises(InputError, match="no target 'tensorrt-7'; choose tensorrt or tensorrt-rtx"):
        target_named("tensorrt-7")


def test_options() -> None:
    for option in ("workspace", "builder_effort", "timing_cache", "embed_plugin"):
        check_option(TENSORRT, option)
    with pytest.raises(InputError, match="tensorrt-rtx has no timing cache: its builder would ask for a GPU"):
        check_option(RTX, "timing_cache")
    with pytest.raises(InputError, match=r"tensorrt has no weight streaming\. It takes workspace, builder effort"):
        check_option(TENSORRT, "weight_streaming")


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
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
