"""Every path of the kernels, run on the host, against the operator's formula in float64."""

import numpy as np
import pytest
from memvp_export.plugins.kernels import interface

# Of the looked-up part, which rounded keys and activations make, and of the output, which is rounded at the end.
LIMITS = {"float32": (2e-6, 1e-7), "float16": (1e-3, 2**-11), "bfloat16": (8e-3, 2**-8)}
# Threads of the blocks of each kernel launched, by path. The row pass has 32 to 256; the one that adds up
# splits has 256 and no shared memory, which the minus says.
PATHS = {
    "fused decode": lambda threads: len(threads) == 2 and threads[0] % 32 == 0 and threads[1] == 256,
    "decode": lambda threads: threads[::2] in ([128, 128], [256, 256]) and threads[1] > 0,
    "tensor cores": lambda threads: threads == [128, 128],
    "tensor cores, split": lambda threads: threads == [128, -256, 128],
    "general": lambda threads: threads == [256, 256],
    "general, split": lambda threads: threads == [256, -256, 256],
}


def check(emulator, case, seed: int = 0) -> np.ndarray:
    actual = emulator.run(case, seed)
    expected = case.expected()
    base = case.tensors()[1].astype(np.float64)
    error = actual.astype(np.float64) - expected
    looked_up, rounding = LIMITS[case.dtype]
    limit = looked_up * np.linalg.norm(expected - base) + rounding * np.linalg.norm(expected)
    assert np.linalg.norm(error) <= limit
    assert np.abs(error).max() <= 8 * limit / np.sqrt(error.size)
    return actual


# B, T, d, v, p; options; path
CASES = [
    ((1, 1, 64, 16, 24), {}, "fused decode"),
    ((1, 1, 8, 1, 1), {}, "fused decode"),
    ((1, 1, 4096, 9, 13), {}, "fused decode"),
    ((1, 1, 8192, 5, 7), {}, "fused decode"),
    ((2, 2, 264, 7, 7), {"dtype": "bfloat16"}, "fused decode"),
    ((1, 3, 1032, 0, 11), {"dtype": "float32"}, "fused decode"),
    ((1, 4, 2056, 5, 11), {}, "fused decode"),
    ((4, 1, 72, 5, 150), {"dtype": "float32"}, "fused decode"),
    ((4, 1, 64, 5, 9), {"shared": True}, "fused decode"),
    ((6, 1, 64, 16, 24), {}, "decode"),
    ((9, 1, 2048, 13, 20), {"dtype": "bfloat16"}, "decode"),
    ((5, 1, 4096, 6, 9), {}, "decode"),
    ((5, 1, 8192, 6, 9), {}, "decode"),
    ((5, 1, 4096, 6, 9), {"dtype": "float32"}, "decode"),
    ((5, 1, 4096, 6, 9), {"device": "orin"}, "decode"),
    ((1, 8, 264, 37, 37), {}, "decode"),
    ((3, 5, 768, 36, 37), {"dtype": "bfloat16"}, "decode"),
    ((2, 6, 40, 530, 531), {"dtype": "float32"}, "decode"),
    ((70, 1, 96, 33, 70), {}, "decode"),
    # Static scores in one part, of more tokens than parts have place for.
    ((40, 1, 8, 1, 40960), {}, "decode"),
    ((6, 3, 64, 16, 24), {"device": "turing"}, "decode"),
    ((6, 1, 64, 16, 24), {"device": "turing", "dtype": "bfloat16"}, "decode"),
    ((2, 20, 64, 16, 24), {}, "tensor cores"),
    ((2, 70, 136, 70, 75), {"dtype": "bfloat16"}, "tensor cores"),
    ((3, 65, 72, 64, 129), {}, "tensor cores"),
    ((2, 9, 64, 1, 3), {"device": "turing"}, "tensor cores"),
    ((1, 20, 264, 0, 24), {}, "tensor cores, split"),
    ((9, 1, 1000, 5, 40), {"shared": True}, "tensor cores, split"),
    ((1, 66, 1032, 33, 33), {"dtype": "bfloat16"}, "tensor cores, split"),
    # As many parts of the scores as there can be, of more tokens than decoding takes.
    ((1, 20, 4104, 3, 23), {"device": "many"}, "tensor cores, split"),
    ((5, 2, 72, 0, 9), {}, "tensor cores"),
    ((1, 1, 16400, 2, 3), {"dtype": "bfloat16"}, "tensor cores, split"),
    ((1, 1, 1, 1, 1), {}, "general"),
    ((2, 3, 51, 7, 19), {}, "general"),
    ((2, 67, 65, 66, 66), {"dtype": "bfloat16"}, "general"),
    ((2, 9, 64, 5, 9), {"dtype": "float32"}, "general"),
    ((2, 9, 64, 5, 9), {"offset": 1}, "general"),
    ((3, 9, 72, 5, 9), {"device": "turing", "dtype": "bfloat16"}, "general"),
    ((1, 1, 515, 4, 9), {"dtype": "float32"}, "general, split"),
    ((4, 1, 331, 0, 5), {}, "general, split"),
]


@pytest.mark.parametrize(("sizes", "options", "path"), CASES, ids=str)
def test_a_path_computes_the_operator_in_any_order_of_threads(emulator, make_case, sizes, options, path) -> None:
    case = make_case(*sizes, **options)
    results = [check(emulator, case, seed) for seed in (0, 1, 2)]
    assert PATHS[path](emulator.launches()), emulator.launches()
    for other in results[1:]:
        assert (results[0].view(np.uint8) == other.view(np.uint8)).all()


SMALL = {
    "fused decode": (1, 2, 64, 5, 9),
    "decode": (6, 1, 64, 5, 9),
    "tensor cores": (2, 9, 64, 5, 9),
    "general": (2, 9, 63, 5, 9),
}


@pytest.mark.parametrize("activation", interface.ACTIVATIONS)
@pytest.mark.parametrize("dtype", interface.TYPES)
@pytest.mark.parametrize("path", SMALL)
def test_every_path_has_every_type_and_activation(emulator, make_case, path, dtype, activation) -> None:
    case = make_case(*SMALL[path], dtype=dtype, activation=activation)
    check(emulator, case)
    assert PATHS["general" if dtype == "float32" and path == "tensor cores" else path](emulator.launches())


@pytest.mark.parametrize("path", SMALL)
def test_the_output_may_be_the_tensor_of_the_ffn(emulator, make_case, path) -> None:
    apart = emulator.run(make_case(*SMALL[path]))
    np.testing.assert_array_equal(emulator.run(make_case(*SMALL[path], in_place=True)), apart)


@pytest.mark.parametrize("path", SMALL)
@pytest.mark.parametrize("changed", range(5))
def test_every_input_moves_the_output(emulator, make_case, path, changed) -> None:
    case = make_case(*SMALL[path], activation="quick_gelu")
    before, after = emulator.run(case), emulator.run(case, changed=changed)
    moved = (before != after).any(axis=(1, 2))
    assert moved[0]
    # hidden, ffn and visual are the sample's own, the tables everybody's.
    assert moved[1:].all() if changed >= 3 else not moved[1:].any()


@pytest.mark.parametrize("sizes", [(3, 1, 64, 16, 24), (3, 4, 64, 16, 24), (3, 20, 64, 16, 24), (3, 20, 63, 16, 24)])
def test_one_visual_memory_serves_every_sample(emulator, make_case, sizes) -> None:
    case = make_case(*sizes, shared=True)
    assert case.tensors()[2].shape[0] == 1
    check(emulator, case)


def test_nan_passes_every_activation(emulator, make_case, monkeypatch) -> None:
    for activation in interface.ACTIVATIONS:
        case = make_case(1, 2, 64, 5, 9, activation=activation)
        tensors = case.tensors()
        tensors[0][0, 1] = np.nan
        monkeypatch.setattr(type(case), "tensors", lambda _, made=tensors: made)
        rows = np.isnan(emulator.run(case)).all(-1)[0]
        assert rows.tolist() == [False, True]
        monkeypatch.undo()


@pytest.mark.parametrize("sizes", [*SMALL.values(), (4, 1, 331, 0, 5)], ids=str)
def test_a_launch_that_is_refused_ends_its_call_and_no_later_one(emulator, make_case, sizes) -> None:
    case = make_case(*sizes)
    emulator.run(case)
    launches = emulator.launches()
    for refused in range(len(launches)):
        with pytest.raises(RuntimeError, match="a CUDA call failed: a launch that CUDA would refuse"):
            emulator.run(case, refused=refused)
        assert emulator.launches() == launches[:refused]
        check(emulator, case)


def test_shared_memory_is_asked_for_on_every_device(emulator, make_case) -> None:
    for device in ("h200", "h200 of many"):
        check(emulator, make_case(5, 1, 4096, 6, 9, device=device))


BROKEN = [
    ("decode.cu", "barrier();", 1, "decode"),
    ("decode.cu", "barrier();", 2, "decode"),
    ("decode.cu", "waitAllBut(s.stages - 2);", 1, "decode"),
    ("tensor_core.cu", "barrier();", 1, "tensor cores"),
    ("tensor_core.cu", "copyWait<kStages - 2>();", 1, "tensor cores"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "text", "count", "path"), BROKEN)
def test_a_missing_barrier_or_wait_would_be_seen(emulator_without, make_case, file, text, count, path) -> None:
    emulator, case = emulator_without(file, text, count), make_case(6, 1 if path == "decode" else 9, 264, 37, 41)
    results = [emulator.run(case, seed).astype(np.float64) for seed in range(4)]
    wrong = [np.linalg.norm(result - case.expected()) for result in results]
    assert not all(error <= 0.01 * np.linalg.norm(case.expected()) for error in wrong)
